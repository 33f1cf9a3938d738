"""Low-rank adapters on a flow map's network: fewer weights to tune, and far fewer to store.

    W' = W + (alpha / r) B A,      W (m, n) frozen, B (m, r) zero at the start, A (r, n) random.

A layer trains r (m + n) numbers instead of m n: a hundredth where m = n = 200 r, but 12.0 % of the
shipped map at r = 8, whose layers are narrow. The sum W' is formed in every forward, as a
parametrisation of the weight (`torch.nn.utils.parametrize`), so that whatever reads a weight gets
the adapted one: attention that is a single function of its weights too, in forward mode and under
`recompute`. It costs the memory of one more copy of the weights, and no more.

Reference: Hu et al. 2022, arXiv 2106.09685.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from steer.flow_map import ResidualMap

__all__ = ["add_lora", "without_lora"]

ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
SHOWN = 6  # names in a warning
Module = TypeVar("Module", bound=nn.Module)


class LowRank(nn.Module):
    """W -> W + (alpha / r) B A for one weight W (m, *n), taken as a matrix (m, n).

    The factors a (r, n) and b (m, r) are in float32 or better.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        n = weight[0].numel()
        self.rank = rank
        self.alpha = alpha
        self.a = nn.Parameter(torch.empty(rank, n, dtype=dtype, device=weight.device))
        self.b = nn.Parameter(torch.zeros(len(weight), rank, dtype=dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Float[Tensor, "m *n"]) -> Float[Tensor, "m *n"]:
        update = self.alpha / self.rank * (self.b @ self.a)
        return weight + update.to(weight.dtype).view(weight.shape)


class Place(NamedTuple):
    """A weight that is, or may be, adapted: its layer and its name there."""

    layer: nn.Module
    weight: str


def add_lora(flow_map: ResidualMap, rank: int = 8, alpha: float | None = None) -> ResidualMap:
    """Freezes a map's network and puts trainable rank-r updates on its weight matrices, in place.

    These are the weights of linear, bilinear, convolution (of any dimension, transposed or not) and
    embedding layers, and the projections of nn.MultiheadAttention. Vectors (biases, norms) are
    frozen. Any other matrix is left out and named in one warning: a parameter of a layer of one's
    own, a recurrent layer, a weight that several layers share.

    Args:
        flow_map: the map to tune; its samples are unchanged until the adapters learn.
        rank: r.
        alpha: the update is scaled by alpha / r; alpha = r by default.

    Raises:
        ValueError: a rank below 1, a map that has adapters, or a network without any of these
            layers.
    """
    if rank < 1:
        raise ValueError(
            f"LoRA needs a rank of at least 1; got rank={rank}; for full weights, leave it out"
        )
    if has_lora(flow_map):
        raise ValueError(
            "the map has adapters already; merge them first with steer.tuning.without_lora"
        )
    places = known(flow_map.network)
    if not places:
        raise ValueError(
            "LoRA finds no linear, convolution, embedding or attention layer in the network; tune"
            " it in full"
        )
    if left := left_out(flow_map.network, places):
        names = ", ".join(left[:SHOWN]) + (", ..." if len(left) > SHOWN else "")
        what = "which are no weights of layers it knows, or are shared"
        warnings.warn(
            f"LoRA leaves out {len(left)} matrices, {what}: {names}; they stay as they are",
            stacklevel=2,
        )
    flow_map.network.requires_grad_(False)
    for place in places.values():
        adapt(place, rank, rank if alpha is None else alpha)
    return flow_map


def without_lora(flow_map: Module) -> Module:
    """Merges a map's adapters into plain weights, in place; a map without any is left as it is."""
    for layer in {id(place.layer): place.layer for place in adapted(flow_map).values()}.values():
        merge(layer)
    return flow_map


def has_lora(flow_map: nn.Module) -> bool:
    """Whether a map has adapters."""
    return any(True for _ in low_ranks(flow_map))


# --- adapters apart from their map --------------------------------------------------------------
def adapters(flow_map: nn.Module) -> dict[str, Tensor]:
    """Collects the adapters alone: "network.first.weight.a", "network.first.weight.b" and so on."""
    found: dict[str, Tensor] = {}
    for name, place in adapted(flow_map).items():
        update = low_rank(place)
        found[f"{name}.a"] = update.a
        found[f"{name}.b"] = update.b
    return found


def settings(flow_map: nn.Module) -> dict[str, float]:
    """Reads rank and alpha of a map's adapters."""
    update = next(low_ranks(flow_map))
    return {"rank": update.rank, "alpha": update.alpha}


def put_adapters(
    flow_map: nn.Module, tensors: Mapping[str, Tensor], rank: int, alpha: float
) -> None:
    """Gives a plain map the adapters of another of the same build.

    Raises:
        ValueError: naming the first adapter that does not fit.
    """
    for name in sorted({name.removesuffix(".a").removesuffix(".b") for name in tensors}):
        layer, _, weight = name.rpartition(".")
        try:
            place = Place(flow_map.get_submodule(layer), weight)
            adapt(place, rank, alpha)
            low_rank(place).load_state_dict(
                {part: tensors[f"{name}.{part}"] for part in ("a", "b")}
            )
        except (AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"the adapter of {name} does not fit the map: {' '.join(str(error).split())}"
            ) from error


# --- which weights ------------------------------------------------------------------------------
def known(network: nn.Module) -> dict[str, Place]:
    """Finds the weights that can be adapted, by name."""
    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    found = {}
    for name, layer in network.named_modules():
        if parametrize.is_parametrized(layer):
            continue
        for weight in matrices(layer):
            parameter = layer._parameters.get(weight)
            if parameter is not None and parameter.is_floating_point() and uses[id(parameter)] == 1:
                found[f"{name}.{weight}" if name else weight] = Place(layer, weight)
    return found


def matrices(layer: nn.Module) -> tuple[str, ...]:
    """Names the matrices that a layer multiplies by, for the known kinds of layer."""
    match layer:
        case nn.Linear() | nn.Bilinear() | _ConvNd():
            return ("weight",)
        case nn.Embedding(sparse=False):
            return ("weight",)
        case nn.MultiheadAttention():
            return ATTENTION
    return ()


def left_out(network: nn.Module, places: Mapping[str, Place]) -> list[str]:
    """Names the matrices that are not among the places; what has one side only is a vector."""
    return [
        name
        for name, weight in network.named_parameters()
        if weight.numel() > max(weight.shape, default=1) and name not in places
    ]


def adapt(place: Place, rank: int, alpha: float) -> None:
    """Puts an update on one weight."""
    weight = getattr(place.layer, place.weight)
    parametrize.register_parametrization(place.layer, place.weight, LowRank(weight, rank, alpha))


@torch.no_grad()
def merge(layer: nn.Module) -> None:
    """Adds a layer's updates to its weights, and makes it a plain layer again.

    (torch's remove_parametrizations takes the property off the class, which a deep copy of the
    layer shares and needs.)
    """
    updates: Any = layer.parametrizations
    merged = {name: getattr(layer, name) for name in updates}
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer._modules["parametrizations"]
    for name, weight in merged.items():
        original = updates[name].original
        original.copy_(weight)
        layer.register_parameter(name, original)


def adapted(module: nn.Module) -> dict[str, Place]:
    """Finds the weights that have an update, by name."""
    return {
        f"{name}.{weight}" if name else weight: Place(layer, weight)
        for name, layer in module.named_modules()
        if parametrize.is_parametrized(layer)
        for weight, updates in layer.parametrizations.items()
        if isinstance(updates[-1], LowRank)
    }


def low_rank(place: Place) -> LowRank:
    """Returns the update of a weight that has one."""
    updates: Any = place.layer.parametrizations
    return updates[place.weight][-1]


def low_ranks(module: nn.Module) -> Iterator[LowRank]:
    """Iterates over the updates of a module."""
    return (part for part in module.modules() if isinstance(part, LowRank))
