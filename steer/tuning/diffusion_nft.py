"""DiffusionNFT: negative-aware fine-tuning by a contrast of two velocities; takes any reward.

    v+ = v_old + beta (v - v_old),   v- = v_old - beta (v - v_old),     z ~ theta_old,
    L = c / beta E[r |v+ - I_t'|^2 + (1 - r) |v- - I_t'|^2] + kl E |v - v_base|^2,

v = u_{t,t}(x_t) at renoised z, r = 1/2 + A / (2 c) in [0, 1], A the advantage clipped at +-c. Good
samples attract v+ and bad ones v-. Without KL its minimum is

    v = v_old + 1 / (c beta) Cov_old(A, I_t' | x_t),

one step along the tilt to first order, by exp(A / (c beta)). Then theta_old follows the map: n
rounds tilt by about n times as much, a maximiser that never stops. With a KL it rests, theta_old
being theta, at v_base + Cov_theta(A, I_t' | x_t) / kl.

The closed forms want E[I_t' | x_t] = v_old: a learned velocity is that of its own samples up to its
error, and a constant reward then moves nothing but that error.

As published (`normalised`) the errors are those of the clean sample, each squared norm divided by
the mean of its absolute entries: an absolute error in kind, whose optimum leans to a median.

Reference: Zheng et al. 2025, arXiv 2509.16117.
"""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, AtMost, NotNegative, Positive
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import Schedule
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, Renoised
from steer.tuning.objective import Follower, TuningClaim
from steer.tuning.policy import standardised

__all__ = ["DiffusionNft"]

LEAST_ERROR = 1e-5


class DiffusionNft(DiagonalTuning):
    """Contrast of v_old +- beta (v - v_old) by the reward of an old policy's samples; a maximiser.

    Takes any reward.

    Args:
        sampler, more: as in DiagonalTuning; it draws from the old policy.
        per_prompt: samples of each prompt that are compared, at least; a batch without conditions
            is one group.
        beta: how far apart the two velocities are; the step of a round is 1 / beta.
        advantage_clip: c.
        kl: weight of the squared distance to the base's velocity.
        normalised: the published form of the errors.
        old_decay: what is kept of the old policy at each collection; by default min(.001 n, .5) at
            the n-th, as published: at first it is the map itself.

    Raises:
        ValueError: settings out of range.
    """

    claim: TuningClaim = "maximiser"

    def __init__(
        self,
        sampler: Sampler | None = None,
        per_prompt: Annotated[int, AtLeast(2)] = 8,
        *,
        beta: Positive = 1.0,
        advantage_clip: Positive = 5.0,
        kl: NotNegative = 1e-4,
        normalised: bool = False,
        old_decay: Annotated[float, AtLeast(0), AtMost(1)] | None = None,
        **more: Any,
    ):
        super().__init__(sampler, **more)
        self.per_prompt = per_prompt
        self.beta = beta
        self.advantage_clip = advantage_clip
        self.kl = kl
        self.normalised = normalised
        self.old_decay = old_decay

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        self.old = Follower(flow_map)

    def begin(self, flow_map: ResidualMap, step: int) -> None:
        if step % self.reuse == 0:
            decay = min(0.001 * (step // self.reuse), 0.5)
            self.old.follow(flow_map, 1 - (decay if self.old_decay is None else self.old_decay))

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return self.old.map

    def velocities(
        self, flow_map: ResidualMap, base: FlowMap, seen: Renoised, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Computes the predictions of I_t' by the map, the old policy and, for the KL, the base."""
        at = (seen.x_t, seen.t, seen.cond)
        with torch.no_grad():
            old = self.old.map.velocity(*at)
            reference = base.velocity(*at) if self.kl > 0 else None
        return flow_map.velocity(*at), old, reference

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
        r = (0.5 + advantage / (2 * self.advantage_clip))[seen.source]
        v, old, reference = self.velocities(flow_map, base, seen, generator)
        change = self.beta * (v - old)
        schedule = flow_map.schedule
        towards, away = (self.error(old + d, seen, schedule) for d in (change, -change))
        contrast = r.to(towards) * towards + (1 - r).to(away) * away
        squared = self.advantage_clip / self.beta * contrast
        if reference is None:
            return squared, {}
        moved = mean_square(v - reference)
        return squared + self.kl * moved, {"moved": moved.detach().mean()}

    def error(
        self, v: Float[Tensor, "m *shape"], seen: Renoised, schedule: Schedule
    ) -> Float[Tensor, "m"]:
        """Measures how far a prediction of I_t' is off."""
        if not self.normalised:
            return mean_square(v - seen.path_velocity)
        gap = schedule.from_velocity(v, seen.x_t, seen.t).clean - seen.clean.z[seen.source]
        size = gap.detach().abs().flatten(1).mean(1).clamp_min(LEAST_ERROR)
        squared = mean_square(gap)
        return squared / size.to(squared)
