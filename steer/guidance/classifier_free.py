"""Classifier-free guidance of a flow map.

    b^w = b(x, no condition) + w (b(x, cond) - b(x, no condition)).

A negative prompt takes the place of no condition. w = 1 is the conditional model, w = 0 the
unconditional one. Both are evaluated, at twice the cost.
The target law is that of the flow of b^w; no marginals have the guided score, so each noise level
of an Sde samples a different law (Bradley & Nakkiran 2024, arXiv 2408.09000).

Reference: Ho & Salimans 2022, arXiv 2207.12598.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import everywhere, single
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time
from steer.lookahead import Guesses, Posterior

__all__ = ["ClassifierFree", "Unconditional"]


class ClassifierFree(FlowMap):
    """A flow map with classifier-free guidance, exact in its velocity.

    Jumps extrapolate the two maps' jumps in the same way, which is the map of the guided flow only
    to first order in t - s: long jumps overshoot for large w. For long guided jumps, integrate
    (OdeMap) or distil.

    Args:
        flow_map: a model that also accepts cond=None, unless it has a negative prompt.
        weight: w; 1 changes nothing.
        negative: the condition that takes the place of none, one entry for all samples: a negative
            prompt, or the empty one of a model that always takes a condition.

    Raises:
        ValueError: guidance was distilled into the map, or a negative prompt of several entries;
            when called, without a condition.
    """

    def __init__(self, flow_map: FlowMap, weight: float = 2.0, negative: Cond = None):
        super().__init__()
        if flow_map.guidance != 1:
            baked = math.isnan(flow_map.guidance)  # by a weight that nobody tells
            known = "" if baked else f" of weight {flow_map.guidance}"
            raise ValueError(f"this map has guidance{known} from its training; use it as it is")
        self.flow_map = flow_map
        self.weight = weight
        self.negative = single(negative, "negative")
        self.schedule = flow_map.schedule
        self.guidance = weight

    @property
    def score_matches_flow(self) -> bool:
        return self.weight in (0, 1) and self.flow_map.score_matches_flow

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.from_noise(x0, cond)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self._mix(lambda cond: self.flow_map.velocity(x, t, cond), x, cond)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self._mix(lambda cond: self.flow_map(x, s, t, cond), x, cond)

    def _mix(self, model: Any, x: Tensor, cond: Cond) -> Tensor:
        """Extrapolate from the unconditional output to the conditional one."""
        if cond is None:
            raise ValueError(
                "classifier-free guidance needs a condition; pass cond, or use the map itself"
            )
        without = model(everywhere(self.negative, len(x), x.device))
        return torch.lerp(without, model(cond), self.weight)


class Unconditional(FlowMap):
    """A conditional model evaluated without its condition, which only the reward receives.

    Args:
        flow_map: a model that accepts cond=None, unless `null` is given.
        null: the condition it is given in place of none, one entry, such as the empty prompt of a
            model that always takes a condition.

    Raises:
        ValueError: a null of several entries.
    """

    def __init__(self, flow_map: FlowMap, null: Cond = None):
        super().__init__()
        self.flow_map = flow_map
        self.null = single(null, "null")
        self.schedule = flow_map.schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance

    @property
    def score_matches_flow(self) -> bool:
        return self.flow_map.score_matches_flow

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.from_noise(x0, self._null(x0))

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.velocity(x, t, self._null(x))

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map(x, s, t, self._null(x))

    def posterior_guesses(
        self, x: Tensor, t: Time, draws: int, generator: torch.Generator | None, cond: Cond = None
    ) -> Guesses:
        """Draw from the model's posterior p(x1 | x_t) without the condition, if the model can."""
        return Posterior(draws)(self.flow_map, x, t, self._null(x), generator)

    def _null(self, x: Tensor) -> Cond:
        return everywhere(self.null, len(x), x.device)
