"""The semigroup identity: short jumps, one after another, equal the long one.

X_{r,t} o X_{s,r} = X_{s,t} with r = gamma s + (1 - gamma) t reads, in the average velocity,

    L_off = E |u_{s,t}(I_s) - sg[(1 - gamma) u_{s,r}(I_s) + gamma u_{r,t}(X_{s,r}(I_s))]|^2,

and for more legs likewise: the long jump's average velocity is the mean of its legs', each by its
share of the gap. No derivative of the network is needed. The short jumps are the target network's:
the student's own (PSD), its moving average (shortcut models), or a frozen teacher's (progressive
distillation; many legs of one are a short ODE of its jumps).

References: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (PSD-M, PSD-U); Frans et al.
2024, arXiv 2410.12557 (shortcut models); Guo et al. 2025, arXiv 2507.16884 (SplitMeanFlow);
Salimans & Ho 2022, arXiv 2202.00512 (progressive).
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.interpolant import expand
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Target, mean_square

__all__ = ["Semigroup"]


class Semigroup(PairObjective):
    """The squared semigroup residual at given pairs (s, t).

    Args:
        uniform: cut the gap at uniform places (PSD-U, SplitMeanFlow) instead of into equal legs
            (PSD-M).
        finest: short jumps up to this gap are steps along the target network's velocity, which flow
            matching teaches: the ground on which a grid of gaps rests, 1/128 in shortcut models.
            None by default: every gap above 0 is a jump.
        legs: short jumps that the long one is compared with.

    Raises:
        ValueError: a negative gap, or fewer than 2 legs.
    """

    asks = frozenset({"jumps"})
    claim: PairClaim = "exact"

    def __init__(self, uniform: bool = False, finest: float = 0.0, legs: int = 2):
        if finest < 0:
            raise ValueError(f"finest is a gap of times, at least 0; got finest={finest}")
        if legs < 2:
            raise ValueError(f"a long jump is compared with at least 2 short ones; got legs={legs}")
        self.uniform = uniform
        self.finest = finest
        self.legs = legs
        self.card = Card("semigroup", "none", "the short jumps", f"{legs + 1} F + 1 B")

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = x = pairs.at_s(student.schedule)
        mean = torch.zeros_like(x)
        with torch.no_grad():
            for start, end in pairwise(self.cuts(s, generator)):
                u = self.short(target, x, torch.lerp(s, t, start), torch.lerp(s, t, end), cond)
                share = expand(end - start, x)
                x = x + share * pairs.gap * u
                mean = mean + share * u
        return mean_square(student.average_velocity(x_s, s, t, cond) - mean)

    def cuts(self, s: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Cuts the gap into legs: fractions from 0 to 1, (B,) each, of the dtype of s."""
        even = torch.arange(1, self.legs, dtype=s.dtype, device=s.device)[:, None] / self.legs
        inner = even.expand(-1, len(s))
        if self.uniform:
            drawn = torch.rand(inner.shape, generator=generator, device=s.device)
            inner = drawn.to(s.dtype).sort(dim=0).values
        return [torch.zeros_like(s), *inner, torch.ones_like(s)]

    def short(self, target: Target, x: Tensor, s: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Computes the average velocity of a short jump; the velocity where the gap is too short.

        Up to `finest` a jump has not been taught.
        """
        return target.jumps.average_velocity(x, s, torch.where(t - s > self.finest, t, s), cond)
