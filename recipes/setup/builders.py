"""From config to parts: what each command builds before it starts."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from recipes.setup.config import as_written, nearest
from rewards import Decoded, Reward, as_reward
from rewards.networks import Classifier
from steer import checkpoint
from steer.analytic import GaussianMixture
from steer.annotations import misfit, shown
from steer.build import build, resolve
from steer.data.stream import keyed_generator
from steer.flow_map import Cond, FlowMap
from steer.guidance import Guidance, Guided, Unconditional
from steer.samplers import Sampler
from steer.tilt import Tilt

Decode = Callable[[Tensor], Tensor]


def make(node: Any, **live: Any) -> Any:
    """The object a config node describes, with objects that no config can hold as further
    arguments. Errors name its key.
    """
    plain, path = node, ""
    if isinstance(node, DictConfig | ListConfig):
        plain, path = OmegaConf.to_container(node), node._get_full_key("")
    if not isinstance(plain, dict) or "_target_" not in plain:
        at = f"{path}: " if path else ""
        raise ValueError(f"{at}expected a node with a _target_ (a class to build); got {plain!r}")
    try:
        return build({**plain, **live}, path=path)
    except ValueError as error:
        root: Any = OmegaConf.to_container(node._get_root()) if path else {}
        raise ValueError(as_written(str(error), root)) from error


Kind = TypeVar("Kind")


def made_as(kind: type[Kind], node: Any, **live: Any) -> Kind:
    """The object of a node, which is to be of that class."""
    found = make(node, **live)
    if not isinstance(found, kind):
        key = node._get_full_key("") if isinstance(node, DictConfig) else "a node"
        raise ValueError(
            f"{key} is a _target_ that builds a {kind.__name__}; got a {type(found).__name__}"
        )
    return found


@contextmanager
def at(key: str) -> Iterator[None]:
    """Errors inside the `with` begin with that key of the config, unless they do already."""
    try:
        yield
    except (ValueError, OSError) as error:
        if re.match(rf"{re.escape(key)}\b", str(error)):
            raise
        raise ValueError(f"{key}: {error}") from error


def device_of(config: DictConfig) -> torch.device:
    """config.device; "auto" takes a CUDA device if there is one, "gpu" is Lightning's word for it."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    name = {"auto": auto, "gpu": "cuda"}.get(config.device, config.device)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        key = (
            "trainer.accelerator"
            if "trainer" in config and config.device == config.trainer.accelerator
            else "device"
        )
        raise ValueError(
            f"{key} {name!r} cannot be used ({str(error).splitlines()[0]}); try device=cpu"
        ) from error


# --- the model ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Model:
    """A flow map with the shape of one sample, and what its checkpoint says of it ({} without one)."""

    flow_map: FlowMap
    shape: tuple[int, ...]
    header: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """The precision its samples are made in."""
        tensors = [*self.flow_map.parameters(), *self.flow_map.buffers()]
        return next(
            (tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32
        )


def model_of(config: DictConfig) -> Model:
    """A shipped map, a folder, a .safetensors file, or a node that builds a flow map."""
    header: dict[str, Any] = {}
    if isinstance(config.model, str):
        with at("model"):
            header = checkpoint.read_header(checkpoint.find(config.model))
            flow_map: Any = checkpoint.load(config.model)
    else:
        flow_map = make(config.model)
    if not isinstance(flow_map, FlowMap):
        raise ValueError(
            f"model is a flow map, or the name or path of one; got a {type(flow_map).__name__}"
        )
    shape = config.shape or header.get("shape") or known_shape(flow_map)
    return Model(flow_map.to(device_of(config)).eval(), tuple(shape), header)


def known_shape(flow_map: FlowMap) -> tuple[int, ...]:
    """The shape of one sample, where the map itself can say."""
    if isinstance(flow_map, GaussianMixture):
        return tuple(flow_map.means.shape[1:])
    raise ValueError(
        "the model does not say what shape its samples have; give it, as in shape=[1,28,28]"
    )


# --- what is asked of it ------------------------------------------------------------------------
@dataclass(frozen=True)
class Prompts:
    """What the samples are asked to be: one condition per prompt, or none, and what to call each in
    a picture.
    """

    cond: Cond
    titles: list[str]

    def __len__(self) -> int:
        return len(self.titles)


def prompts_of(config: DictConfig) -> Prompts:
    """condition.labels, as numbers, as names among condition.names, or as free text; else `prompts`
    times nothing.
    """
    labels = config.condition.labels
    with at("condition.names"):
        names = names_of(config.condition.names)
    if labels is None:
        if config.prompts < 1:
            raise ValueError(f"prompts is at least 1; got {config.prompts}")
        return Prompts(None, [""] * config.prompts)
    if not labels:
        raise ValueError("condition.labels is empty; give one label per prompt, or null")
    if all(isinstance(label, str) for label in labels) and not names:
        return Prompts(list(labels), list(labels))
    numbers = [number_of(label, names) for label in labels]
    titles = [names[k] if 0 <= k < len(names) else str(k) for k in numbers]
    return Prompts(torch.tensor(numbers, device=device_of(config)), titles)


def names_of(names: Any) -> list[str]:
    """The class names: a list, or where in Python to find one."""
    found = resolve(names) if isinstance(names, str) else names or []
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ValueError(
            f"it is a list of names, or where in Python one is; got a {type(found).__name__}"
        )
    return [str(name) for name in found]


def number_of(label: Any, names: list[str]) -> int:
    """A class label, given as a number or by name."""
    if label in names:
        return names.index(label)
    if isinstance(label, int):
        return label
    raise ValueError(
        f"condition.labels holds numbers, or names among {', '.join(names)}; got {label!r}{nearest(label, names)}"
    )


def told(flow_map: FlowMap, config: DictConfig) -> FlowMap:
    """The map as it is, or one that is not told the condition; guided by config.guidances, one
    after the other.
    """
    flow_map = flow_map if config.condition.model else Unconditional(flow_map)
    device = device_of(config)
    for i, node in enumerate(config.get("guidances") or []):
        chance = keyed_generator("guidance", i, config.seed, device=device)
        flow_map = guided(flow_map, node, chance).to(device).eval()
    return flow_map


def guided(flow_map: FlowMap, node: Any, generator: torch.Generator) -> FlowMap:
    """The map with one guidance more: a `Guidance`, or a flow map around a flow map such as
    ClassifierFree.
    """
    target = (
        resolve(node["_target_"]) if isinstance(node, DictConfig) and "_target_" in node else None
    )
    if isinstance(target, type) and issubclass(target, FlowMap):
        return make(node, flow_map=flow_map)
    guidance = make(node)
    if not isinstance(guidance, Guidance):
        raise ValueError(
            f"guidances holds guidances and flow maps around flow maps; got a {type(guidance).__name__}"
        )
    return Guided(flow_map, guidance, generator=generator)


def noise(
    config: DictConfig, shape: Sequence[int], prompts: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """x0 (prompts, particles, *shape), the same for the same seed on every device."""
    if config.particles < 1:
        raise ValueError(f"particles is at least 1; got {config.particles}")
    x0 = torch.randn(
        prompts, config.particles, *shape, generator=keyed_generator("x0", config.seed), dtype=dtype
    )
    return x0.to(device_of(config))


# --- who judges ---------------------------------------------------------------------------------
def decode_of(config: DictConfig) -> Decode | None:
    """What makes images in [0, 1] of samples before rewards and eyes look at them, or None where
    they look as it is.
    """
    if config.reward_decode is None:
        return None
    with at("reward_decode"):
        found = (
            resolve(config.reward_decode)
            if isinstance(config.reward_decode, str)
            else make(config.reward_decode)
        )
        if isinstance(found, type) or misfit(found, Callable[[Tensor], Any]) is not None:
            raise ValueError(f"it is a function of samples alone; got {shown(found)}")
    return found.to(device_of(config)).eval() if isinstance(found, nn.Module) else found


def reward_of(node: Any, decode: Decode | None, config: DictConfig) -> Reward | None:
    """A reward from a node, or from the bare name of a reward, a class of rewards or a function;
    decoded if asked.
    """
    if node is None:
        return None
    with at("heldout" if node is not config.reward and node == config.heldout else "reward"):
        found = resolve(node) if isinstance(node, str) else make(node)
        if isinstance(found, type):
            found = make({"_target_": node})
        reward, name = as_reward(found), node if isinstance(node, str) else node["_target_"]
    if decode is not None:
        reward = Decoded(reward, decode)
    reward.__name__ = re.split("[.:]", name)[-1]  # what error messages call it
    return reward.to(device_of(config))


def tilt_of(reward: Reward | None, config: DictConfig, by_condition: bool = False) -> Tilt | None:
    """The reward at its scale, or None without a reward.

    Args:
        reward: what is tilted by.
        config: with tilt.scale, a number or one for each prompt.
        by_condition: whether samples come in any order, so that a scale for each prompt is found by
            its condition.
    """
    scale = config.tilt.scale
    if reward is None:
        return None
    if isinstance(scale, ListConfig):
        if len(scale) != len(prompts_of(config)):
            raise ValueError(
                f"tilt.scale has {len(scale)} numbers for {len(prompts_of(config))} prompts; give one each"
            )
        scale = torch.tensor(list(scale), dtype=torch.float64)
        if by_condition:
            return Tilt(reward, scale, known_prompts(config), config.tilt.on_nonfinite).to(
                device_of(config)
            )
    return Tilt(reward, scale, on_nonfinite=config.tilt.on_nonfinite).to(device_of(config))


def known_prompts(config: DictConfig) -> Cond:
    """The condition of each prompt. Raises ValueError without: nothing then tells one prompt from
    another.
    """
    cond = prompts_of(config).cond
    if cond is None:
        raise ValueError(
            "a tilt.scale for each prompt needs condition.labels, to tell prompts apart; or give one number"
        )
    return cond


def judge_of(config: DictConfig) -> Classifier | None:
    """The classifier that judges, or None."""
    judge = None if config.judge is None else make(config.judge)
    if not isinstance(judge, Classifier | None):
        raise ValueError(
            f"judge is a rewards.networks.Classifier, which has features; got a {type(judge).__name__}"
        )
    return judge if judge is None else judge.to(device_of(config))


def sampler_of(node: Any, key: str = "") -> Sampler:
    """A sampler from its node; the key of a plain one is for errors."""
    sampler = build(node, path=key) if isinstance(node, dict) and "_target_" in node else make(node)
    if not isinstance(sampler, Sampler):
        key = node._get_full_key("") if isinstance(node, DictConfig) else key
        raise ValueError(
            f"{key or 'sampler'} is a sampler, one of steer.samplers; got a {type(sampler).__name__}"
        )
    return sampler
