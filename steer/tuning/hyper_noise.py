"""HyperNoise: tuning in noise space, where the noise is moved and the map stays as it is.

    L = E[1/2 |f(x0)|^2 - scale r(g(x0 + f(x0)))],      f = u^f_{0,1} - u_{0,1},

with g the frozen base from noise to data, u its average velocity and u^f that of the map being
tuned, as in `steer.maps.NoiseTilted`. Each noise goes to

    argmax_y scale r(g(y)) - 1/2 |y - x0|^2,

a transport of the noise (a proximal map), not the tilted distribution: on g(y) = m + s y with r =
-k/2 (x - c)^2 the mean is that of the tilt, the standard deviation s / (1 + k s^2) and not s /
sqrt(1 + k s^2). `NoiseTilt` adds the volume term that makes it exact. A linear reward moves all
noise alike, so that both agree.

|f|^2 is summed over dimensions. (The published code averages it, for a reward stronger by their
number.)

Reference: Eyring et al. 2025, arXiv 2508.09968.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import Count
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.maps import NoiseTilted
from steer.tilt import Tilt
from steer.training.base import Loss
from steer.tuning.objective import (
    TuningClaim,
    TuningObjective,
    differentiable_gain,
    require_gradient,
)
from steer.tuning.rollouts import squared_norm

__all__ = ["HyperNoise"]


class HyperNoise(TuningObjective):
    """Ascends the reward in noise space, less half the squared distance that the noise moves.

    The tuned model is `NoiseTilted(base, flow_map)`. It costs one forward of each map and the
    jumps, all but the base's displacement differentiated.

    Args:
        jumps: equal jumps of the base that g is made of. Sample with as many, or with any number
            where the jumps of the base agree.

    Raises:
        ValueError: settings out of range; when called, a reward without a gradient.
        NonFiniteReward: when called, or in the backward pass, naming the sample.
    """

    claim: TuningClaim = "transport"
    needs_gradient = True

    def __init__(self, jumps: Count = 1):
        super().__init__()
        self.jumps = jumps

    def product(self, flow_map: ResidualMap, base: FlowMap) -> NoiseTilted:
        return NoiseTilted(base, flow_map)

    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        require_gradient(tilt)
        f, volume = self.displaced(self.product(flow_map, base), x0, cond, generator)
        energy = squared_norm(f) / 2
        x = x0 + f
        for k in range(self.jumps):
            x = base(x, k / self.jumps, (k + 1) / self.jumps, cond)
        gain = differentiable_gain(tilt, x, cond)
        terms = {"tilt": gain, "energy": energy, "volume": volume}
        return Loss(
            (energy + volume - gain).mean(), {name: v.detach().mean() for name, v in terms.items()}
        )

    def displaced(
        self,
        tilted: NoiseTilted,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """Computes f(x0) and the volume term, which this objective leaves out."""
        return tilted.displacement(x0, cond), x0.new_zeros(len(x0))
