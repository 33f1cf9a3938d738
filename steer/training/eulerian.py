"""The Eulerian identity: where a point lands does not change as it moves along the flow.

    d_s X_{s,t} + grad X_{s,t} b_s = 0,

in the average velocity      u_{s,t} = b_s + (t - s) (d_s u + grad u b_s).

The forms differ in which velocity stands for b_s, in the target and as the direction of the
derivative, and in where the gradient stops:

| | target | direction | gradient |
|---|---|---|---|
| `Eulerian` (ESD, EMD) | target network's velocity | the same | through d_s X |
| `AverageEulerian` (ESD-avg, AYF-EMD) | target network's velocity | the same | through u |
| `MeanFlow` | the sample's own I_s' | the same | through u |
| `ImprovedMeanFlow` (iMF) | the sample's own I_s' | target network's velocity | through u |

The bracket is linear in I_s', so its mean given I_s is the right side with b_s: with the
stop-gradients, gradient descent on each is stationary at the flow map.

References: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (ESD, EMD); Sabour, Fidler &
Kreis 2025, arXiv 2506.14603 (AYF-EMD); Geng et al. 2025, arXiv 2505.13447 (MeanFlow); Geng et al.
2025, arXiv 2512.02012 (iMF).
"""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, PairClaim, Pairs, Target, mean_square
from steer.training.derivatives import Derivative, Differential, SameMasks

__all__ = ["AverageEulerian", "Eulerian", "ImprovedMeanFlow", "MeanFlow"]


class Eulerian(Differential):
    """E |d_s X_{s,t}(I_s) + sg[grad X_{s,t}(I_s) b_s(I_s)]|^2, with the gradient through d_s X.

    From the student's own velocity it is ESD; from a frozen teacher EMD.
    """

    card = Card("Eulerian", "d_s, grad b", "grad X b", "2 J + 1 F + 1 B through J")
    asks = frozenset({"velocity"})
    claim: PairClaim = "exact"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        masks = SameMasks(x_s)
        with torch.no_grad(), masks:
            b = target.velocity.velocity(x_s, s, cond)
        with torch.no_grad(), masks:
            _, carried = self.derivative(
                lambda x: student(x, s, t, cond), (x_s,), (b.to(x_s.dtype),)
            )
        with masks:
            _, d_s = self.derivative(
                lambda s: student(x_s, s, t, cond), (s,), (torch.ones_like(s),)
            )
        return mean_square(d_s + carried)


class AverageForm(Differential):
    """E |u_{s,t}(I_s) - sg[velocity + (t - s) (d_s u + grad u . direction)]|^2.

    The three classes below say which velocity and which direction.

    Args:
        derivative: how the derivative along (direction, 1) is taken; forward mode by default.
        normalise: if given, the residual g is replaced by g / (|g| + normalise), |g| its root mean
            square over the entries of x, which bounds the gradient: sCM's tangent normalisation,
            there .1 (Lu & Song 2024, arXiv 2410.11081). It does not move the zero of a residual
            without noise.
        warmup: steps in which the derivative grows from 0 to its full weight, as in sCM; at weight
            0 the objective is matching the velocity.

    Raises:
        ValueError: normalise that is not positive, or a negative warmup.
    """

    def __init__(
        self, derivative: Derivative | None = None, normalise: float | None = None, warmup: int = 0
    ):
        if (normalise is not None and not normalise > 0) or warmup < 0:
            raise ValueError(
                "normalise must be positive or None, and warmup at least 0;"
                f" got normalise={normalise}, warmup={warmup}"
            )
        super().__init__(derivative)
        self.normalise = normalise
        self.warmup = warmup

    @abstractmethod
    def velocity_and_direction(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Chooses what stands for b_s in the target, and as the direction of the derivative."""

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        with torch.no_grad():
            velocity, direction = self.velocity_and_direction(student, target, pairs, x_s)
        u, du = self.derivative(
            lambda x, s: student.average_velocity(x, s, t, cond),
            (x_s, s),
            (direction.to(x_s.dtype), torch.ones_like(s)),
        )
        share = 1.0 if pairs.step >= self.warmup else pairs.step / self.warmup
        goal = (velocity + share * pairs.gap * du).detach()
        if self.normalise is not None:
            goal = self.bounded(u.detach(), goal)
        return mean_square(u - goal)

    def bounded(self, u: Tensor, goal: Tensor) -> Tensor:
        """Moves a goal nearer to u, on the line between them, to a distance below 1."""
        assert self.normalise is not None
        step = goal - u
        size = step.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (step.ndim - 1))
        return u + step / (size + self.normalise)


class AverageEulerian(AverageForm):
    """The average form along the target network's velocity: no noise in the target.

    At an exact map nothing is left.
    """

    card = Card("Eulerian", "d_s + grad b", "everything but u", "1 J + 1 F + 1 B")
    asks = frozenset({"velocity"})
    claim: PairClaim = "exact"

    def velocity_and_direction(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        b = target.velocity.velocity(x_s, pairs.s, pairs.cond)
        return b, b


class MeanFlow(AverageForm):
    """The average form along the sample's own I_s': from data alone, without a diagonal.

    The price is the noise of I_s'. With `FiniteDifference(.005)` it is TiM's (Wang et al. 2025,
    arXiv 2509.04394); with the pairs `ToData()`, normalise=.1 and a warm-up it is sCM from data (Lu
    & Song 2024, arXiv 2410.11081), on any path.
    """

    card = Card("Eulerian", "d_s + grad I'", "everything but u", "1 J + 1 B")
    asks = frozenset({"data"})
    claim: PairClaim = "exact on average"

    def velocity_and_direction(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        v = pairs.velocity_at_s(student.schedule)
        return v, v


class ImprovedMeanFlow(AverageForm):
    """The average form with I_s' in the target and the target network's velocity as direction.

    The noise I_s' - b_s is no longer multiplied by grad X_{s,t}: u - (t - s) sg[d_s u + grad u b_s]
    is a prediction of the velocity, regressed on I_s' like any other.
    """

    card = Card("Eulerian", "d_s + grad b", "the derivative", "1 J + 1 F + 1 B")
    asks = frozenset({"data", "velocity"})
    claim: PairClaim = "exact on average"

    def velocity_and_direction(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        b = target.velocity.velocity(x_s, pairs.s, pairs.cond)
        return pairs.velocity_at_s(student.schedule), b
