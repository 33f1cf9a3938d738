"""Flow map matching (FMM): the map moves along the path's own velocity, and inverts itself.

    L = E |d_t X_{s,t}(X_{t,s}(I_t)) - I_t'|^2 + |X_{s,t}(X_{t,s}(I_t)) - I_t|^2,

over pairs in either order (`AnyPair`), since the inner jump goes back. From data alone, without a
diagonal: X_{t,s} brings I_t to where X_{s,t} must bring it back from, so that the velocity of the
return, given where it ends, is regressed on I_t'. Its minimiser is the flow map; the value there is
not zero but the variance of I_t' given I_t.

Reference: Boffi, Albergo & Vanden-Eijnden 2024, arXiv 2406.07507, proposition 3.11.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, PairClaim, Pairs, Target, mean_square
from steer.training.derivatives import Differential

__all__ = ["FlowMapMatching"]


class FlowMapMatching(Differential):
    """The squared Lagrangian residual against the path, plus the squared error of the return."""

    card = Card("Lagrangian", "d_t", "nothing", "1 F + 1 J + 2 B, through J")
    asks = frozenset({"data"})
    claim: PairClaim = "exact on average"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_t = student.schedule.interpolate(pairs.x0, pairs.x1, t)
        v = student.schedule.path_velocity(pairs.x0, pairs.x1, t)
        start = student(x_t, t, s, cond)
        back, d_t = self.derivative(
            lambda t: student(start, s, t, cond), (t,), (torch.ones_like(t),)
        )
        return mean_square(d_t - v) + mean_square(back - x_t)
