"""Advantage Weighted Matching (AWM): flow matching as the likelihood in a policy gradient.

    l = -|u_{t,t}(x_t) - I_t'|^2,   rho = exp(l - l_old),     z ~ theta_old,
    L = E[-min(rho A, clip(rho, 1 - c, 1 + c) A)] + kl E |u_{t,t} - b_base|^2,

with A the advantage of z, and x_t, I_t' the same for theta and theta_old, the map as it was when z
was drawn. At rho = 1, as in the first pass, the gradient is that of flow matching weighted by A,

    E A grad |u_{t,t}(x_t) - I_t'|^2,

so with a KL it rests at v_base + Cov_theta(A, I_t' | x_t) / kl. Without one a negative advantage
pushes the velocity away from its sample without bound: it maximises, and the KL is what stops it.

l is a mean over dimensions, as published. It is a bound of a log likelihood in shape only, and rho
no ratio of densities: the clip bounds how far one collection moves the loss of flow matching.

Reference: Xue et al. 2025, arXiv 2509.25050 (there A is divided by its clip, 5, and kl is .001;
it also holds the velocity near a moving average, which lags by less than a step and is left out).
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from steer.annotations import AtLeast, NotNegative, Positive
from steer.flow_map import FlowMap, ResidualMap
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, Renoised
from steer.tuning.objective import Follower, TuningClaim
from steer.tuning.policy import standardised, surrogate

__all__ = ["AdvantageWeightedMatching"]


class AdvantageWeightedMatching(DiagonalTuning):
    """Flow matching on the map's own samples, weighted by their advantages; a maximiser.

    Takes any reward.

    Args:
        sampler, more: as in DiagonalTuning; it draws from the map. With reuse > 1 a copy of the map
            is kept, for the ratio.
        per_prompt: samples of each prompt that are compared, at least; a batch without conditions
            is one group.
        advantage_clip: the largest advantage.
        ratio_clip: c.
        kl: weight of the squared distance to the base's velocity.

    Raises:
        ValueError: settings out of range.
    """

    claim: TuningClaim = "maximiser"

    def __init__(
        self,
        sampler: Sampler | None = None,
        per_prompt: Annotated[int, AtLeast(2)] = 8,
        *,
        advantage_clip: Positive = 5.0,
        ratio_clip: Positive = 0.2,
        kl: NotNegative = 0.005,
        **more: Any,
    ):
        super().__init__(sampler, **more)
        self.per_prompt = per_prompt
        self.advantage_clip = advantage_clip
        self.ratio_clip = ratio_clip
        self.kl = kl
        self.old: Follower | None = None

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        if self.reuse > 1:
            self.old = Follower(flow_map)

    def begin(self, flow_map: ResidualMap, step: int) -> None:
        if self.old is not None and step % self.reuse == 0:
            self.old.follow(flow_map, 1.0)

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return flow_map if self.old is None else self.old.map

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean = seen.clean
        advantage = standardised(clean.tilt, clean.cond, self.advantage_clip, of_batch=True)
        at = (seen.x_t, seen.t, seen.cond)
        v = flow_map.velocity(*at)
        squared = mean_square(v - seen.path_velocity)
        before = squared.detach()
        if self.old is not None:
            with torch.no_grad():
                before = mean_square(self.old.map.velocity(*at) - seen.path_velocity)
        log_ratio = before - squared
        weighted = surrogate(log_ratio, advantage[seen.source], self.ratio_clip)
        outside = (log_ratio.detach().exp() - 1).abs() > self.ratio_clip
        terms = {"clipped": outside.double().mean()}
        if self.kl > 0:
            with torch.no_grad():
                reference = base.velocity(*at)
            moved = mean_square(v - reference)
            weighted = weighted + self.kl * moved
            terms["moved"] = moved.detach().mean()
        return weighted, terms
