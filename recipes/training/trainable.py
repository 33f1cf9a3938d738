"""The map that is tuned: a copy of its base, with all weights or low-rank adapters trainable."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from recipes.setup import builders
from steer import checkpoint
from steer.adapters.backbone import Backbone
from steer.adapters.lora import has_lora as of_peft
from steer.adapters.lora import save_lora
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.maps import NoiseTilted
from steer.networks import ByCondition
from steer.tuning import without_lora
from steer.tuning.lora import adapters, has_lora


class WithoutCondition(nn.Module):
    """A network that ignores the condition, so that its unconditional law is tuned.

    Of a `ByCondition` only the unconditional part is trained; `whole` has both.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        part = network.unconditional if isinstance(network, ByCondition) else network
        self.network = part
        self._whole = (network,)  # a tuple hides it from torch

    @property
    def whole(self) -> nn.Module:
        """The network with its condition."""
        return self._whole[0]

    def forward(self, x: Tensor, s: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.network(x, s, t)


@dataclass(frozen=True)
class Labels:
    """prompts(n, generator) -> n of the given conditions, uniformly at random."""

    cond: Cond

    def __call__(self, n: int, generator: torch.Generator) -> Cond:
        if self.cond is None:
            return None
        chosen = torch.randint(len(self.cond), (n,), generator=generator)
        return pick(self.cond, chosen)


def learner_of(base: FlowMap, config: DictConfig) -> ResidualMap:
    """A copy of the base whose weights, or whose new adapters, are trainable.

    Raises:
        ValueError: a base that is no trained map.
    """
    real = isinstance(base, Backbone)
    if not real and not (isinstance(base, ResidualMap) and isinstance(config.model, str)):
        raise ValueError(
            "only a trained map can be tuned; let model be the name of a shipped one, or a run"
            " folder, or a real model by steer.adapters.from_pretrained"
        )
    assert isinstance(base, ResidualMap)
    if real and not config.condition.model:
        raise ValueError("condition.model is false, which only a shipped map can be tuned with")
    learner = without_lora(copy.deepcopy(base)).train().requires_grad_(True)
    if not config.condition.model:
        learner.network = WithoutCondition(learner.network)
    if config.lora is None:
        return learner
    return builders.made_as(ResidualMap, config.lora, flow_map=learner)


def save(
    product: FlowMap,
    learner: ResidualMap,
    folder: Path,
    config: DictConfig,
    model: builders.Model,
    **notes: Any,
) -> None:
    """Writes the tuned model.

    A map tuned in noise space is map.safetensors, with its base. Any other is
    adapters.safetensors if adapters were tuned, and map.safetensors with merged weights if not, or
    if config.merge asks for both.
    """
    about = {"shape": list(model.shape), **notes}
    if isinstance(learner, Backbone):
        save_real(learner, folder)
        return
    if isinstance(learner.network, WithoutCondition):
        learner.network = learner.network.whole
    if isinstance(product, NoiseTilted):
        shifted = NoiseTilted(
            checkpoint.plain(checkpoint.find(config.model)), without_lora(learner)
        )
        build = model.header["build"]
        recipe = {"_target_": "steer.maps.NoiseTilted", "flow_map": build, "shift": build}
        checkpoint.save(shifted, folder / "map.safetensors", recipe, base=config.model, **about)
        return
    if has_lora(learner):
        checkpoint.save_adapters(learner, folder / "adapters.safetensors", config.model, **about)
        if not config.merge:
            return
    plain = without_lora(learner)
    recipe = dict(model.header["build"])
    if not learner.interpolates:
        recipe["interpolates"] = False
    checkpoint.save(plain, folder / "map.safetensors", recipe, base=config.model, **about)


def check_product(product: FlowMap, learner: ResidualMap) -> None:
    """Raises ValueError for a tuned model that could not be saved, before the work."""
    if isinstance(learner, Backbone) and product is not learner:
        raise ValueError(
            f"loop.objective: the tuned model is a {type(product).__name__}, which the format of"
            " real models cannot hold; take an objective that tunes the model itself, as Direct"
        )


def save_real(learner: Backbone, folder: Path) -> None:
    """Writes a real model in the library's format: lora/ of adapters, or transformer/ whole."""
    if of_peft(learner):
        save_lora(learner, folder / "lora")
    else:
        network = learner.network
        network.transformer.save_pretrained(folder / network.part)


def parameters(learner: ResidualMap) -> dict[str, int]:
    """The numbers of parameters of the base, and of those that are tuned."""
    update = sum(tensor.numel() for tensor in adapters(learner).values())
    if isinstance(learner, Backbone) and of_peft(learner):
        update = sum(weight.numel() for weight in learner.parameters() if weight.requires_grad)
    return {
        "parameters": sum(weight.numel() for weight in learner.parameters()) - update,
        "tuned_parameters": sum(
            weight.numel() for weight in learner.parameters() if weight.requires_grad
        ),
    }
