"""The semigroup notion: two jumps equal one.

X_{r,t} o X_{s,r} = X_{s,t} with r = gamma s + (1 - gamma) t reads, in the average velocity,

    L_off = E |u_{s,t}(I_s) - sg[(1 - gamma) u_{s,r}(I_s) + gamma u_{r,t}(X_{s,r}(I_s))]|^2.

No derivative of the network is needed. The two short jumps are the held map's: the student's own (PSD), its moving
average (shortcut models), or a frozen teacher's (progressive distillation).

References: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (PSD-M, PSD-U); Frans et al. 2024, arXiv 2410.12557
(shortcut models); Guo et al. 2025, arXiv 2507.16884 (SplitMeanFlow); Salimans & Ho 2022, arXiv 2202.00512 (progressive).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.interpolant import expand
from steer.training.base import Card, Held, PairObjective, Pairs, mean_square


class Semigroup(PairObjective):
    """The squared semigroup residual at given pairs (s, t).

    Args:
        uniform: draw gamma uniformly (PSD-U, SplitMeanFlow) instead of taking the midpoint (PSD-M).
        finest: short jumps up to this gap are steps along the held map's velocity, which flow matching teaches: the ground
            on which a grid of gaps rests, 1/128 in shortcut models. None by default: every gap above 0 is a jump.
    """

    card = Card("semigroup", "none", "both short jumps", "3 F + 1 B")
    asks = frozenset({"jumps"})

    def __init__(self, uniform: bool = False, finest: float = 0.0):
        if finest < 0:
            raise ValueError(f"finest is a gap of times, at least 0; got {finest}")
        self.uniform, self.finest = uniform, finest

    def __call__(
        self, student: ResidualMap, held: Held, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        gamma = torch.rand(s.shape, generator=generator, device=s.device) if self.uniform else torch.full_like(s, 0.5)
        r, x_s = gamma * s + (1 - gamma) * t, pairs.at_s(student.schedule)
        with torch.no_grad():
            first = self.short(held, x_s, s, r, cond)
            second = self.short(held, x_s + expand(r - s, x_s) * first, r, t, cond)
            weight = expand(gamma, x_s)
            target = (1 - weight) * first + weight * second
        return mean_square(student.average_velocity(x_s, s, t, cond) - target)

    def short(self, held: Held, x: Tensor, s: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The average velocity of a short jump, or the velocity where it is too short to have been taught."""
        return held.jumps.average_velocity(x, s, torch.where(t - s > self.finest, t, s), cond)
