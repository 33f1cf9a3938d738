"""Reinforce Adjoint Matching (RAM): a gradient-free regression on the model's own samples.

    L = E |u_{t,t}(x_t) - sg[b_base(x_t) + A (I_t' - u_{t,t}(x_t))]|^2,     z ~ the map itself,

A = scale * r(z) less its mean over the other samples of the prompt. Where it rests,

    u = b_base + Cov(scale r, I_t' | x_t)

under the model's own distribution: the tilt to first order, too weak for large rewards. Below -1 A
would repel the velocity from itself without bound, so it is clipped.

Reference: Reinforce Adjoint Matching, 2026, arXiv 2605.10759 (its flow-map form adds a semigroup
loss on the same samples).
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from steer.annotations import Above, Count
from steer.flow_map import FlowMap, ResidualMap
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, Renoised, advantages
from steer.tuning.objective import TuningClaim

__all__ = ["ReinforceAdjointMatching"]


class ReinforceAdjointMatching(DiagonalTuning):
    """Regression on the base's velocity plus the advantage times I_t' - u; near the tilt.

    Takes any reward. Several noisings of each sample are cheap: the samples cost their sampler's
    evaluations and a reward each.

    Args:
        sampler, noisings, more: as in DiagonalTuning; it draws from the map itself.
        clip: the least advantage, above -1; None leaves it.
    """

    claim: TuningClaim = "near"

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 4,
        *,
        clip: Annotated[float, Above(-1)] | None = -0.9,
        **more: Any,
    ):
        super().__init__(sampler, noisings, **more)
        self.clip = clip

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return flow_map

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        u = flow_map.velocity(seen.x_t, seen.t, seen.cond)
        advantage = advantages(seen.clean.tilt, seen.clean.cond)
        terms = {}
        if self.clip is not None:
            terms["clipped"] = (advantage < self.clip).double().mean()
            advantage = advantage.clamp_min(self.clip)
        with torch.no_grad():
            change = seen.shared(advantage) * (seen.path_velocity - u)
            target = base.velocity(seen.x_t, seen.t, seen.cond) + change
        return mean_square(u - target), terms
