"""The Lagrangian identity: as its end time grows, a jump moves along the velocity where it is.

    d_t X_{s,t}(x) = b_t(X_{s,t}(x)),

in the average velocity      u + (t - s) d_t u = b_t(x + (t - s) u).

References: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (LSD, LMD); Sabour, Fidler &
Kreis 2025, arXiv 2506.14603 (Align Your Flow: the average-velocity form, from a teacher); Zhou et
al. 2025, arXiv 2511.19797 (TVM).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, PairClaim, Pairs, Target, mean_square
from steer.training.derivatives import Differential

__all__ = ["AverageLagrangian", "Lagrangian"]


class Lagrangian(Differential):
    """E |d_t X_{s,t}(I_s) - sg b_t(X_{s,t}(I_s))|^2, with the gradient through d_t X.

    From the student's own velocity it is LSD, which Boffi et al. find the most stable of their
    three; from a frozen teacher LMD; from the student's moving average TVM.
    """

    card = Card("Lagrangian", "d_t", "b at the landing point", "1 J + 1 F + 1 B through J")
    asks = frozenset({"velocity"})
    claim: PairClaim = "exact"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        landing, d_t = self.derivative(
            lambda t: student(x_s, s, t, cond), (t,), (torch.ones_like(t),)
        )
        with torch.no_grad():
            b = target.velocity.velocity(landing, t, cond)
        return mean_square(d_t - b)


class AverageLagrangian(Differential):
    """E |u_{s,t}(I_s) - sg[b_t(X_{s,t}(I_s)) - (t - s) d_t u_{s,t}(I_s)]|^2.

    No gradient passes through the derivative: cheaper than `Lagrangian` in time and memory, with
    the same zero. From a frozen teacher it is AYF-LMD.
    """

    card = Card("Lagrangian", "d_t", "everything but u", "1 J + 2 F + 1 B")
    asks = frozenset({"velocity"})
    claim: PairClaim = "exact"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        with torch.no_grad():
            u, d_t = self.derivative(
                lambda t: student.average_velocity(x_s, s, t, cond), (t,), (torch.ones_like(t),)
            )
            b = target.velocity.velocity(x_s + pairs.gap * u, t, cond)
        return mean_square(student.average_velocity(x_s, s, t, cond) - (b - pairs.gap * d_t))
