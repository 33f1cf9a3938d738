"""Rescheduled(flow_map, schedule): the same model on another path from noise to data, with nothing
to learn again.

Two paths meet wherever signal and noise are in the same ratio. With t(r) the time of the model's
own path at which alpha_t : sigma_t = abar_r : sbar_r, and k_r = abar_r / alpha_t = sbar_r /
sigma_t, the new path is the old one on another clock and another scale, xbar_r = k_r x_{t(r)}. So

    map         Xbar_{r,r'}(x) = k_{r'} X_{t(r),t(r')}(x / k_r),
    velocity    abar' D + sbar' n, with D and n those of x / k_r at t(r): they are functions of the ratio alone,
    posterior   p(x1 | xbar_r = x) = p(x1 | x_{t(r)} = x / k_r),

each exactly as good as the model. k is taken as |(abar, sbar)| / |(alpha, sigma)|, which is regular
at both ends.

Reference: for velocities, Lipman et al. 2024, arXiv 2412.06264 (scheduler change); for maps, the
same change of variables.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import Schedule, Time, batch_time, expand
from steer.lookahead import Guesses, Posterior

__all__ = ["Rescheduled"]

ROUNDING = 1e-6  # of the ratio of signal to noise, below which two starts are the same start


class Rescheduled(FlowMap):
    """`flow_map` on the path of `schedule`. As many evaluations, no more error, the same gradients
    and conditions.

    Exact wherever the model's own path has the ratio. A variance-preserving path starts at alpha_0
    = .0066, not 0; asked on a path that starts lower, the model answers for these first times (r <
    .0066 on Linear) as at its own t = 0. What it says there is off by O(alpha_0), as is its own
    claim that p_0 = N(0, I); samples drawn from r = 0 by jumps are just those it draws from its own
    t = 0.

    Args:
        flow_map: the model, on whatever path it was learned.
        schedule: the path it is to be asked on.
    """

    def __init__(self, flow_map: FlowMap, schedule: Schedule):
        super().__init__()
        self.flow_map = flow_map
        self.schedule = schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance
        self.start = [
            float(c) for c in flow_map.schedule(0.0)[:2]
        ]  # alpha and sigma where the model begins

    @property
    def score_matches_flow(self) -> bool:
        return self.flow_map.score_matches_flow

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        y, s = self.inner(x, s)
        k, t = self._clock(x, t)
        return expand(k, x) * self.flow_map(y, s, t, cond)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        y, inner_t = self.inner(x, t)
        pair = self.flow_map.schedule.from_velocity(
            self.flow_map.velocity(y, inner_t, cond), y, inner_t
        )
        return self.schedule.velocity(pair, x, t)

    def posterior_guesses(
        self,
        x: Float[Tensor, "b *shape"],
        t: Time,
        draws: int,
        generator: torch.Generator | None,
        cond: Cond = None,
    ) -> Guesses:
        """The model's draws from p(x1 | x_t), see steer.lookahead. Raises ValueError if it cannot
        draw.
        """
        y, inner_t = self.inner(x, t)
        return Posterior(draws)(self.flow_map, y, inner_t, cond, generator)

    def inner(
        self, x: Float[Tensor, "b *shape"], t: Time
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """x / k and the time of the model's own path: where the model sees x."""
        k, inner_t = self._clock(x, t)
        return x / expand(k, x), inner_t

    def _clock(self, x: Tensor, t: Time) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """k and the model's own time at the time t of the new path."""
        alpha, sigma, _, _ = self.schedule.coefficients(batch_time(t, x))
        inner_t = self._time(alpha, sigma)
        inner_alpha, inner_sigma, _, _ = self.flow_map.schedule.coefficients(inner_t)
        return torch.hypot(alpha, sigma) / torch.hypot(inner_alpha, inner_sigma), inner_t

    def _time(self, alpha: Float[Tensor, "b"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The model's own time of a ratio, held at 0 below its start."""
        first_alpha, first_sigma = self.start
        early = alpha * first_sigma < first_alpha * sigma * (1 - ROUNDING)
        return self.flow_map.schedule.time_at(
            torch.where(early, first_alpha, alpha), torch.where(early, first_sigma, sigma)
        )
