"""The map that is being tuned: a copy of the base, perhaps by low-rank adapters, perhaps not told the condition."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from recipes import parts
from steer import checkpoint
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tuning import without_lora


class Untold(nn.Module):
    """A network that is not told the condition, to tune the law it has without one."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, s: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.network(x, s, t)


@dataclass(frozen=True)
class Labels:
    """prompts(n, generator): n of the given conditions at random, all alike likely."""

    cond: Cond

    def __call__(self, n: int, generator: torch.Generator) -> Cond:
        if self.cond is None:
            return None
        chosen = torch.randint(len(self.cond), (n,), generator=generator)
        if isinstance(self.cond, Tensor):
            return self.cond[chosen.to(self.cond.device)]
        return [self.cond[k] for k in chosen.tolist()]


def learner_of(base: FlowMap, config: DictConfig) -> ResidualMap:
    """A copy of the base whose weights, or whose new adapters, may move."""
    if not isinstance(base, ResidualMap) or not isinstance(config.model, str):
        raise ValueError("only a trained map can be tuned; let model be the name of a shipped one, or a run folder")
    learner = copy.deepcopy(base).train().requires_grad_(True)
    if not config.condition.model:
        learner.network = Untold(learner.network)
    return learner if config.lora is None else parts.made_as(ResidualMap, config.lora, flow_map=learner)


def save(learner: ResidualMap, path: Path, config: DictConfig, model: parts.Model, **notes: Any) -> None:
    """Plain weights, that load like those of the base."""
    if config.lora is not None:
        learner = without_lora(learner)
    if isinstance(learner.network, Untold):
        learner.network = learner.network.network
    checkpoint.save(learner, path, model.header["build"], shape=list(model.shape), base=config.model, **notes)
