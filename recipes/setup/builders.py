"""The parts of an experiment, built from its config."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from recipes.setup import prompts
from recipes.setup.config import as_written
from recipes.setup.noise import Noise
from recipes.setup.prompts import Prompts
from rewards import Decoded, Reward, as_reward
from rewards.networks import ImageEncoder
from steer import checkpoint
from steer.adapters.backbone import Backbone
from steer.analytic import GaussianMixture
from steer.annotations import misfit, shown
from steer.build import below, build, resolve
from steer.data.stream import keyed_generator
from steer.flow_map import Cond, FlowMap
from steer.guidance import Guidance, Guided, Unconditional
from steer.samplers import Sampler
from steer.tilt import Tilt

Decode = Callable[[Tensor], Tensor]


class Classifiers:
    """Classifiers loaded for one run, each file once.

    A reward, a held-out reward and a judge that name the same weights share one frozen module.
    """

    LOADER = "rewards.load_classifier"

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def put_into(self, node: Any, path: str) -> Any:
        """`node` with its nodes of `rewards.load_classifier` replaced by what they load.

        Args:
            node: nested dictionaries, lists and plain values.
            path: its key in the config, for errors to name.
        """
        if isinstance(node, list):
            return [self.put_into(item, f"{path}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        if node.get("_target_") != self.LOADER:
            return {key: self.put_into(value, below(path, key)) for key, value in node.items()}
        source = repr(sorted(node.items()))
        if source not in self.loaded:
            self.loaded[source] = build(node, path=path)
        return self.loaded[source]


def make(node: Any, classifiers: Classifiers | None = None, **live: Any) -> Any:
    """Builds the object that a config node describes.

    Args:
        node: a node with a `_target_`.
        classifiers: those already loaded in this run; without it, all are loaded anew.
        live: further arguments, objects that no config can hold.

    Raises:
        ValueError: no node with a `_target_`, or what building it raises; names its key.
    """
    plain = node
    path = ""
    if isinstance(node, DictConfig | ListConfig):
        plain = OmegaConf.to_container(node)
        path = node._get_full_key("")
    if not isinstance(plain, dict) or "_target_" not in plain:
        at = f"{path}: " if path else ""
        raise ValueError(f"{at}expected a node with a _target_ (a class to build); got {plain!r}")
    try:
        filled = plain if classifiers is None else classifiers.put_into(plain, path)
        return build({**filled, **live}, path=path) if isinstance(filled, dict) else filled
    except ValueError as error:
        root: Any = OmegaConf.to_container(node._get_root()) if path else {}
        raise ValueError(as_written(str(error), root)) from error


Kind = TypeVar("Kind")


def made_as(kind: type[Kind], node: Any, **live: Any) -> Kind:
    """Builds the object of a node. Raises ValueError unless it is of that class."""
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
    """config.device; "auto" is a CUDA device if there is one, and "gpu" (Lightning's) always is."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    name = {"auto": auto, "gpu": "cuda"}.get(config.device, config.device)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        from_trainer = "trainer" in config and config.device == config.trainer.accelerator
        key = "trainer.accelerator" if from_trainer else "device"
        reason = str(error).splitlines()[0]
        raise ValueError(f"{key} {name!r} cannot be used ({reason}); try device=cpu") from error


# --- the model ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Model:
    """A flow map.

    Attributes:
        flow_map: on its device, in evaluation mode.
        shape: of one sample.
        header: of its checkpoint; empty without one.
    """

    flow_map: FlowMap
    shape: tuple[int, ...]
    header: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its samples: that of its weights, and float32 at least."""
        tensors = [*self.flow_map.parameters(), *self.flow_map.buffers()]
        own = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
        return torch.promote_types(next(own, torch.float32), torch.float32)


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
    """The shape of one sample of an analytic map or a real model. Raises ValueError for others."""
    if isinstance(flow_map, GaussianMixture):
        return tuple(flow_map.means.shape[1:])
    if isinstance(flow_map, Backbone):
        if flow_map.shape is None:
            raise ValueError(
                "the model does not say how large its images are; give model.height and model.width"
            )
        return flow_map.shape
    raise ValueError(
        "the model does not say what shape its samples have; give it, as in shape=[1,28,28]"
    )


# --- prompts, guidance and noise ----------------------------------------------------------------
def prompts_of(config: DictConfig) -> Prompts:
    """The prompts of a config, on its device."""
    return prompts.prompts_of(config, device_of(config))


def apply_guidance(
    flow_map: FlowMap, config: DictConfig, classifiers: Classifiers | None = None
) -> FlowMap:
    """The map guided by config.guidances, one after the other.

    Without its condition if condition.model is false.
    """
    if not config.condition.model:
        flow_map = Unconditional(flow_map)
    device = device_of(config)
    for i, node in enumerate(config.get("guidances") or []):
        generator = keyed_generator("guidance", i, config.seed, device=device)
        flow_map = guided(flow_map, node, generator, classifiers).to(device).eval()
    return flow_map


def guided(
    flow_map: FlowMap, node: Any, generator: torch.Generator, classifiers: Classifiers | None = None
) -> FlowMap:
    """The map with one more guidance.

    A `Guidance`, or a flow map around a flow map such as ClassifierFree.
    """
    has_target = isinstance(node, DictConfig) and "_target_" in node
    target = resolve(node["_target_"]) if has_target else None
    if isinstance(target, type) and issubclass(target, FlowMap):
        return make(node, classifiers, flow_map=flow_map)
    guidance = make(node, classifiers)
    if not isinstance(guidance, Guidance):
        raise ValueError(
            "guidances holds guidances and flow maps around flow maps; "
            f"got a {type(guidance).__name__}"
        )
    return Guided(flow_map, guidance, generator=generator)


def noise_of(
    config: DictConfig, shape: Sequence[int], prompts: int, dtype: torch.dtype = torch.float32
) -> Noise:
    """x0 (prompts, particles, *shape), the same for the same seed on every device."""
    if config.particles < 1:
        raise ValueError(f"particles is at least 1; got {config.particles}")
    return Noise(config.seed, (prompts, config.particles, *shape), dtype, device_of(config))


def noise(config: DictConfig, shape: Sequence[int], prompts: int) -> Tensor:
    """The noise of all prompts as one tensor."""
    return noise_of(config, shape, prompts).part(range(prompts))


# --- rewards and the judge ----------------------------------------------------------------------
def decode_of(config: DictConfig, flow_map: FlowMap | None = None) -> Decode | None:
    """The function from samples to images in [0, 1] of rewards and pictures; None for none.

    A real model has its own decoder, which is taken unless the config names another.
    """
    if config.reward_decode is None:
        return decoder(flow_map)
    with at("reward_decode"):
        node = config.reward_decode
        found = resolve(node) if isinstance(node, str) else make(node)
        if isinstance(found, type) or misfit(found, Callable[[Tensor], Any]) is not None:
            raise ValueError(f"it is a function of samples alone; got {shown(found)}")
    return found.to(device_of(config)).eval() if isinstance(found, nn.Module) else found


def decoder(flow_map: FlowMap | None) -> Decode | None:
    """The decoder of a real model; None for any other map, or one without a decoder."""
    if not isinstance(flow_map, Backbone) or flow_map.network.shared["vae"] is None:
        return None
    return flow_map.decode


def heldout_of(
    config: DictConfig, decode: Decode | None = None, classifiers: Classifiers | None = None
) -> list[Reward]:
    """The rewards of `heldout`: one, those of a list, or none. See `reward_of`."""
    node = config.get("heldout")
    nodes = node if isinstance(node, ListConfig) else [node]
    keys = [f"heldout[{k}]" for k in range(len(nodes))] if len(nodes) > 1 else ["heldout"]
    found = [
        reward_of(config, key, decode, classifiers, each)
        for key, each in zip(keys, nodes, strict=True)
        if each is not None
    ]
    return [reward for reward in found if reward is not None]


def reward_of(
    config: DictConfig,
    key: str,
    decode: Decode | None = None,
    classifiers: Classifiers | None = None,
    node: Any = None,
) -> Reward | None:
    """The reward of a key of the config, on its device; None if there is none.

    Args:
        config: the whole config.
        key: "reward" or "heldout"; a node, or the name of a reward, a class of rewards or a
            function.
        decode: samples -> images, applied before the reward; None passes the samples themselves.
        classifiers: those already loaded in this run.
        node: what stands at the key; looked up if None.
    """
    node = config.get(key) if node is None else node
    if node is None:
        return None
    with at(key):
        found = resolve(node) if isinstance(node, str) else make(node, classifiers)
        if isinstance(found, type):
            found = make({"_target_": node})
        reward = as_reward(found)
    if decode is not None:
        reward = Decoded(reward, decode)
    target = node if isinstance(node, str) else node["_target_"]
    reward.__name__ = re.split("[.:]", target)[-1]  # what error messages call it
    return reward.to(device_of(config))


def tilt_of(reward: Reward | None, config: DictConfig, by_condition: bool = False) -> Tilt | None:
    """The reward at its scale, or None without a reward.

    Args:
        reward: unscaled.
        config: with tilt.scale, a number or one for each prompt.
        by_condition: whether samples come in any order, so that a scale for each prompt is found by
            its condition.

    Raises:
        ValueError: scales for another number of prompts, or, by condition, without conditions.
    """
    if reward is None:
        return None
    scale = config.tilt.scale
    if isinstance(scale, ListConfig):
        prompts = len(prompts_of(config))
        if len(scale) != prompts:
            raise ValueError(
                f"tilt.scale has {len(scale)} numbers for {prompts} prompts; give one each"
            )
        scale = torch.tensor(list(scale), dtype=torch.float64)
        if by_condition:
            tilt = Tilt(reward, scale, known_prompts(config), config.tilt.on_nonfinite)
            return tilt.to(device_of(config))
    return Tilt(reward, scale, on_nonfinite=config.tilt.on_nonfinite).to(device_of(config))


def known_prompts(config: DictConfig) -> Cond:
    """The condition of each prompt. Raises ValueError without: prompts are indistinguishable."""
    cond = prompts_of(config).cond
    if cond is None:
        raise ValueError(
            "a tilt.scale for each prompt needs condition.labels, to tell prompts apart; or give"
            " one number"
        )
    return cond


def judge_of(config: DictConfig, classifiers: Classifiers | None = None) -> ImageEncoder | None:
    """The network in whose features samples are judged, on the config's device, or None."""
    node = config.get("judge")
    if node is None:
        return None
    judge = make(node, classifiers)
    if not isinstance(judge, ImageEncoder):
        raise ValueError(
            "judge is a rewards.networks.Classifier or a rewards.small_clip.SmallClip, which have"
            f" features; got a {type(judge).__name__}"
        )
    return judge.to(device_of(config))


def sampler_of(node: Any, key: str = "") -> Sampler:
    """Builds a sampler. Raises ValueError for anything else.

    Args:
        node: of a config, or a plain dictionary.
        key: of a plain dictionary, for errors to name.
    """
    sampler = build(node, path=key) if isinstance(node, dict) and "_target_" in node else make(node)
    if not isinstance(sampler, Sampler):
        key = node._get_full_key("") if isinstance(node, DictConfig) else key
        raise ValueError(
            f"{key or 'sampler'} is a sampler, one of steer.samplers; got a"
            f" {type(sampler).__name__}"
        )
    return sampler
