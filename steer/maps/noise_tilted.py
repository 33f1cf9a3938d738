"""A flow map tuned in noise space: the noise is moved before a frozen map carries it to data.

    x1 = X_{0,1}(x0 + f(x0)),      f = u^f_{0,1} - u_{0,1},

with u the average velocity of the frozen map and u^f that of a copy of it which is tuned: f is zero
until then. So any map has its noise network, with or without adapters.

References: Eyring et al. 2025, arXiv 2508.09968 (HyperNoise).
"""

from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time

__all__ = ["NoiseTilted"]


class NoiseTilted(FlowMap):
    """A flow map whose noise is moved by the difference of another map to it.

    Its jumps and velocity are those of the frozen map, so that samplers and look-aheads work as
    they do there; only where they start from differs (`from_noise`), for one evaluation of each
    map. Jumps called by hand from noise start from `from_noise(x0)`.

    Args:
        flow_map: the frozen map.
        shift: the tuned copy of it.
    """

    def __init__(self, flow_map: FlowMap, shift: FlowMap):
        super().__init__()
        self.flow_map = flow_map
        self.shift = shift
        self.schedule = flow_map.schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance

    @property
    def score_matches_flow(self) -> bool:
        return False  # the score is that of the marginals before the noise was moved

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        x0 = self.flow_map.from_noise(x0, cond)
        return x0 + self.displacement(x0, cond)

    def displacement(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute f(x0)."""
        tuned = self.shift.average_velocity(x0, 0.0, 1.0, cond)
        return tuned - self.flow_map.average_velocity(x0, 0.0, 1.0, cond)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map(x, s, t, cond)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.velocity(x, t, cond)
