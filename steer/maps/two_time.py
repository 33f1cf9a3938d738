"""TwoTimeDenoiser: a flow map whose network aims at the data, with a target time beside the time it
is at.

    X_{s,t}(x) = (sigma_t / sigma_s) x + (alpha_t - alpha_s sigma_t / sigma_s) D_{s,t}(x)
               = x + (alpha_t - alpha_s) D + (sigma_t - sigma_s) n,      n = (x - alpha_s D) / sigma_s:

a step of DDIM with a D made for it. X_{s,s} is the identity by construction, D_{s,1} the jump to
data, and D_{s,s} the posterior mean, which gives the velocity.

References: Kim et al. 2023 (CTM), arXiv 2310.02279; for the step, Song et al. 2020 (DDIM), arXiv
2010.02502.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from steer import counting
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Endpoints, Schedule, Time, batch_time

__all__ = ["TwoTimeDenoiser"]


class TwoTimeDenoiser(FlowMap):
    """The map above, by one call of network(x, s, t, cond) -> D_{s,t}(x). Exact for s up to 1 -
    `margin`.

    Later the noise cannot be read off D; the pair (D, n) is then that of the same x at 1 - margin,
    which makes velocity and jumps from there err by O(margin), and leaves X_{1,1} the identity.

    Args:
        network: network(x, s, t, cond) -> (B, *shape), with s and t of shape (B,).
        schedule: the path it was trained on.
        margin: how far from t = 1 the network is asked for the noise.
    """

    jumps_follow_velocity = True

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor, Cond], Tensor],
        schedule: Schedule,
        margin: float = 1e-3,
    ):
        super().__init__()
        if not 0 < margin < 0.5:
            raise ValueError(
                f"the margin is a time in (0, 0.5) to keep from t = 1; got {margin}, try 1e-3"
            )
        self.network = network
        self.schedule = schedule
        self.margin = margin

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        clean, noise = self._pair(x, s, t, cond)
        return x + (
            self.schedule.interpolate(noise, clean, t) - self.schedule.interpolate(noise, clean, s)
        )

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        t = batch_time(t, x)
        return self.schedule.velocity(self._pair(x, t, t, cond), x, t)

    def _pair(
        self, x: Tensor, s: Float[Tensor, "b"], t: Float[Tensor, "b"], cond: Cond
    ) -> Endpoints:
        """D_{s,t} and the noise that x is then made of."""
        s = s.clamp(max=1 - self.margin)
        return self.schedule.from_clean(counting.network(self.network(x, s, t, cond)), x, s)
