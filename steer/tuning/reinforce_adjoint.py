"""Reinforce Adjoint Matching (RAM): a gradient-free regression on the model's own samples.

    L = E |u_{t,t}(x_t) - sg[b_base(x_t) + A (I_t' - u_{t,t}(x_t))]|^2,     z ~ the map itself,

A = scale * r(z) less its mean over the other samples of the prompt. Where it rests,

    u = b_base + Cov(scale r, I_t' | x_t)

under the model's own distribution: the tilt to first order, too weak for large rewards. Below -1 A
would repel the velocity from itself without bound, so it is clipped.

Reference: Reinforce Adjoint Matching, 2026, arXiv 2605.10759 (its flow-map form adds a semigroup
loss on the same samples).
"""

from typing import Any

import torch
from torch import Tensor

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.samplers.base import Claim
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, Renoised, advantages

__all__ = ["ReinforceAdjointMatching"]


class ReinforceAdjointMatching(DiagonalTuning):
    """Regression on the base's velocity plus the advantage times I_t' - u; near the tilt.

    Takes any reward. Several noisings of each sample are cheap: the samples cost `jumps`
    evaluations and a reward each.

    Args:
        jumps, noisings, more: as in DiagonalTuning; the map itself draws.
        clip: the least advantage, above -1; None leaves it.

    Raises:
        ValueError: a clip of -1 or below.
    """

    claim: Claim = "biased"

    def __init__(
        self, jumps: int = 4, noisings: int = 4, *, clip: float | None = -0.9, **more: Any
    ):
        super().__init__(jumps, noisings, **more)
        if clip is not None and not clip > -1:
            raise ValueError(f"clip is the least advantage, above -1; got clip={clip}")
        self.clip = clip

    def draws_from(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return flow_map

    def residual(
        self, flow_map: ResidualMap, base: FlowMap, seen: Renoised, cond: Cond
    ) -> tuple[Tensor, dict[str, Tensor]]:
        u = flow_map.velocity(seen.x_t, seen.t, cond)
        advantage = advantages(seen.tilt, seen.cond)
        terms = {}
        if self.clip is not None:
            terms["clipped"] = (advantage < self.clip).double().mean()
            advantage = advantage.clamp_min(self.clip)
        a = advantage[seen.source].to(u.dtype).view(-1, *[1] * (u.ndim - 1))
        with torch.no_grad():
            target = base.velocity(seen.x_t, seen.t, cond) + a * (seen.path_velocity - u)
        return mean_square(u - target), terms
