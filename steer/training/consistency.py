"""Consistency: two points of one flow line land in the same place.

The Eulerian identity at a finite distance:

    L = E |X_{s,t}(x_s) - sg[X_{s,t}(x_s) + (X_{r,t}(x_r) - X_{s,t}(x_s)) / (r - s)]|^2,

with s < r <= t and x_r one step on from x_s = I_s: on the same pair (x0, x1), which is consistency
training (CT), or along the target's velocity by a solver, which is consistency distillation (CD).
With the pairs `ToData()` it learns the jumps to data alone, as consistency models do; with any
pairs, two-time maps. The factor 1/(r - s) keeps value and gradient of one size as r nears s, where
the gradient tends to t - s times that of the average Eulerian form (`AverageEulerian` for CD,
`MeanFlow` for CT). At a finite distance CT is biased, a step along the pair not being one along the
flow; CD is exact up to the solver's error. Short strides divide the rounding of the network: under
bfloat16 keep them above a hundredth.

References: Song et al. 2023, arXiv 2303.01469 (CT, CD); Geng et al. 2024, arXiv 2406.14548 (ECM,
the annealed gap).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.interpolant import expand
from steer.solvers import Heun, Solver
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Source, Target, mean_square
from steer.training.derivatives import SameMasks

__all__ = ["AlongFlow", "AnnealedStride", "Consistency", "GridStride", "SamePair"]


class Stride(ABC):
    """stride(s, t, step) -> r: how far ahead of s the second point lies, in (s, t]."""

    @abstractmethod
    def __call__(
        self, s: Float[Tensor, "b"], t: Float[Tensor, "b"], step: int
    ) -> Float[Tensor, "b"]:
        """Chooses the time r of the second point."""


class GridStride(Stride):
    """The next multiple of 1/n at least half a cell after s, or t if that is nearer.

    The fixed discretisation of CT and CD.

    Args:
        n: cells of the grid on [0, 1].
    """

    def __init__(self, n: int = 32):
        if n < 1:
            raise ValueError(f"GridStride needs at least one cell; got n={n}")
        self.n = n

    def __call__(self, s: Tensor, t: Tensor, step: int) -> Float[Tensor, "b"]:
        return torch.minimum(torch.floor(s * self.n + 1.5) / self.n, t)


class AnnealedStride(Stride):
    """r = s + (t - s) / q^(1 + step // every): from half of the way to ever less (ECM).

    Args:
        every: training steps at each stage.
        q: factor from one stage to the next.
        stages: the last stage, where it stays.
    """

    def __init__(self, every: int, q: float = 2.0, stages: int = 8):
        if every < 1 or not q > 1 or stages < 1:
            raise ValueError(
                "AnnealedStride needs every >= 1, q > 1 and stages >= 1;"
                f" got every={every}, q={q}, stages={stages}"
            )
        self.every = every
        self.q = q
        self.stages = stages

    def __call__(self, s: Tensor, t: Tensor, step: int) -> Float[Tensor, "b"]:
        return s + (t - s) / self.q ** min(1 + step // self.every, self.stages)


class Path(ABC):
    """path(student, target, pairs, x_s, r) -> x_r.

    Attributes:
        asks, claim: as in PairObjective.
    """

    asks: Source
    claim: PairClaim

    @abstractmethod
    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor, r: Tensor
    ) -> Tensor:
        """Finds the second point, at time r."""


class SamePair(Path):
    """x_r = alpha_r x1 + sigma_r x0: training from data."""

    asks = "data"
    claim: PairClaim = "biased"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor, r: Tensor
    ) -> Tensor:
        return student.schedule.interpolate(pairs.x0, pairs.x1, r)


class AlongFlow(Path):
    """x_r by one step of a solver along the target's velocity: distillation.

    Args:
        solver: Heun() by default, as in the paper.
    """

    asks = "velocity"
    claim: PairClaim = "exact up to the solver"

    def __init__(self, solver: Solver | None = None):
        self.solver = solver or Heun()

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, x_s: Tensor, r: Tensor
    ) -> Tensor:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return target.velocity.velocity(x, t, pairs.cond)

        return self.solver.step(velocity, x_s, pairs.s, r - pairs.s)


class Consistency(PairObjective):
    """The squared distance of two landing points, over the distance of their starting times.

    Args:
        path: how the second point is found; SamePair() by default.
        stride: how far ahead it is; GridStride(32) by default.
    """

    card = Card("Eulerian, discrete", "none", "the landing from x_r", "2 F + 1 B (and a solver's)")

    def __init__(self, path: Path | None = None, stride: Stride | None = None):
        self.path = path or SamePair()
        self.stride = stride or GridStride()
        self.asks = frozenset({self.path.asks, "jumps"})

    @property
    def claim(self) -> PairClaim:  # type: ignore[override]
        """biased with SamePair, exact up to the solver with AlongFlow"""
        return self.path.claim

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        r = self.stride(s, t, pairs.step)
        with torch.no_grad():
            x_r = self.path(student, target, pairs, x_s, r)
        masks = SameMasks(x_s)
        with torch.no_grad(), masks:
            landing = target.jumps(x_r, r, t, cond)
        with masks:
            x_t = student(x_s, s, t, cond)
        stride = torch.where(r > s, r - s, 1.0)  # at s = t both points have landed: distance 0
        return mean_square(x_t - (x_t + (landing - x_t) / expand(stride, x_t)).detach())
