"""A flow map on another path than it was trained on, by a change of variables.

Points of two paths correspond where their signal-to-noise ratios agree. With t(r) the time of the
model's own path at which alpha_t : sigma_t = abar_r : sbar_r, and k_r = abar_r / alpha_t = sbar_r /
sigma_t, the new path is the old one with time and scale changed, xbar_r = k_r x_{t(r)}. So

    map         Xbar_{r,r'}(x) = k_{r'} X_{t(r),t(r')}(x / k_r),
    velocity    abar' D + sbar' n, with D and n of x / k_r at t(r), functions of the ratio alone,
    posterior   p(x1 | xbar_r = x) = p(x1 | x_{t(r)} = x / k_r),

each as accurate as the model. k is computed as |(abar, sbar)| / |(alpha, sigma)|, which is regular
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

ROUNDING = 1e-6  # relative difference of two signal-to-noise ratios below which they are equal


class Rescheduled(FlowMap):
    """`flow_map` on the path of `schedule`, with the same cost, accuracy, gradients and conditions.

    Exact wherever the signal-to-noise ratio is on the model's own path. A variance-preserving path
    starts at alpha_0 = .0066, not 0; on a path that starts lower, the first times (r < .0066 on
    Linear) are mapped to the model's t = 0. The error there is O(alpha_0), as is that of p_0 =
    N(0, I) on its own path; samples by jumps from r = 0 are those of the model from its t = 0.

    Args:
        flow_map: the model, on the path it was learned on.
        schedule: the path to evaluate it on.
    """

    def __init__(self, flow_map: FlowMap, schedule: Schedule):
        super().__init__()
        self.flow_map = flow_map
        self.schedule = schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance
        self.start = [float(c) for c in flow_map.schedule(0.0)[:2]]  # the model's alpha_0, sigma_0

    @property
    def score_matches_flow(self) -> bool:
        return self.flow_map.score_matches_flow

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.from_noise(x0, cond)

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
        """Draw from the model's p(x1 | x_t). Raises ValueError if it cannot."""
        y, inner_t = self.inner(x, t)
        return Posterior(draws)(self.flow_map, y, inner_t, cond, generator)

    def inner(
        self, x: Float[Tensor, "b *shape"], t: Time
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """Convert x and t to the model's own path: x / k and its time."""
        k, inner_t = self._clock(x, t)
        return x / expand(k, x), inner_t

    def _clock(self, x: Tensor, t: Time) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Compute k and the model's own time for the time t of the new path."""
        alpha, sigma, _, _ = self.schedule.coefficients(batch_time(t, x))
        inner_t = self._time(alpha, sigma)
        inner_alpha, inner_sigma, _, _ = self.flow_map.schedule.coefficients(inner_t)
        return torch.hypot(alpha, sigma) / torch.hypot(inner_alpha, inner_sigma), inner_t

    def _time(self, alpha: Float[Tensor, "b"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Find the model's own time of a ratio, 0 below its start."""
        first_alpha, first_sigma = self.start
        early = alpha * first_sigma < first_alpha * sigma * (1 - ROUNDING)
        return self.flow_map.schedule.time_at(
            torch.where(early, first_alpha, alpha), torch.where(early, first_sigma, sigma)
        )
