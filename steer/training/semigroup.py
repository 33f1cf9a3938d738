"""Progressive self-distillation (PSD): two jumps must equal one.

X_{r,t} o X_{s,r} = X_{s,t} with r = gamma s + (1 - gamma) t reads, in the average velocity,

    L_off = E |u_{s,t}(I_s) - sg[(1 - gamma) u_{s,r}(I_s) + gamma u_{r,t}(X_{s,r}(I_s))]|^2.

No derivative of the network is needed. Cost per sample: three forwards, one backward.

Reference: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825: PSD-M is gamma = 1/2, PSD-U uniform gamma.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.interpolant import expand
from steer.training.base import PairObjective, mean_square


class Semigroup(PairObjective):
    """The squared semigroup residual at given pairs (s, t).

    Args:
        uniform: draw gamma uniformly (PSD-U) instead of taking the midpoint (PSD-M).
    """

    def __init__(self, uniform: bool = False):
        self.uniform = uniform

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        s: Tensor,
        t: Tensor,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "b"]:
        gamma = torch.rand(s.shape, generator=generator, device=s.device) if self.uniform else torch.full_like(s, 0.5)
        r = gamma * s + (1 - gamma) * t
        x_s = flow_map.schedule.interpolate(x0, x1, s)
        with torch.no_grad():
            first = flow_map.average_velocity(x_s, s, r, cond)
            second = flow_map.average_velocity(x_s + expand(r - s, x_s) * first, r, t, cond)
            weight = expand(gamma, x_s)
            target = (1 - weight) * first + weight * second
        return mean_square(flow_map.average_velocity(x_s, s, t, cond) - target)
