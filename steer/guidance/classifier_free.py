"""Classifier-free guidance, as a FlowMap around a FlowMap.

    b^w = b(x, no condition) + w (b(x, cond) - b(x, no condition)).

w = 1 is the conditional model, w = 0 the unconditional one. Both are evaluated side by side, at
twice the cost. The law meant is that of the flow of b^w; no marginals have the guided score, so
each noise level of an Sde has a law of its own (Bradley & Nakkiran 2024, arXiv 2408.09000).

Reference: Ho & Salimans 2022, arXiv 2207.12598.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time
from steer.lookahead import Guesses, Posterior

__all__ = ["ClassifierFree", "Unconditional"]


class ClassifierFree(FlowMap):
    """The guided velocity exactly; jumps by the same mixture of the two maps' jumps, which is the
    guided flow's own map only to first order in t - s: short jumps are safe, long ones over-shoot
    for large w. To jump far with guidance, integrate it (OdeMap) or distil it.

    Args:
        flow_map: a model that can also do without its condition.
        weight: w; 1 changes nothing.

    Raises:
        ValueError: guidance was distilled into the map.
    """

    def __init__(self, flow_map: FlowMap, weight: float = 2.0):
        super().__init__()
        if flow_map.guidance != 1:
            raise ValueError(
                f"this map has guidance of weight {flow_map.guidance} in it already, from its training; use it as it is"
            )
        self.flow_map = flow_map
        self.weight = weight
        self.schedule = flow_map.schedule
        self.guidance = weight

    @property
    def score_matches_flow(self) -> bool:
        return self.weight in (0, 1) and self.flow_map.score_matches_flow

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self._mix(lambda cond: self.flow_map.velocity(x, t, cond), cond)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self._mix(lambda cond: self.flow_map(x, s, t, cond), cond)

    def _mix(self, model: Any, cond: Cond) -> Tensor:
        if cond is None:
            raise ValueError(
                "classifier-free guidance needs a condition to lean to; pass cond, or use the map itself"
            )
        without = model(None)
        return torch.lerp(without, model(cond), self.weight)


class Unconditional(FlowMap):
    """A conditional model that is not told the condition, so that only the reward sees it.

    Args:
        flow_map: a model that can do without its condition.
    """

    def __init__(self, flow_map: FlowMap):
        super().__init__()
        self.flow_map = flow_map
        self.schedule = flow_map.schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance

    @property
    def score_matches_flow(self) -> bool:
        return self.flow_map.score_matches_flow

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.velocity(x, t)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map(x, s, t)

    def posterior_guesses(
        self, x: Tensor, t: Time, draws: int, generator: torch.Generator | None, cond: Cond = None
    ) -> Guesses:
        """The model's own draws, if it has them, without the condition."""
        return Posterior(draws)(self.flow_map, x, t, None, generator)
