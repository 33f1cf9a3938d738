"""Training objectives: losses on noise and data, and squared residuals at pairs of times.

A `PairObjective` writes one identity of the flow map as a residual of the `student`, the map being
learned, against a stop-gradient `target`: the velocity that its jumps should follow, and jumps that
are assumed to be right. Whether these come from the student itself (self-distillation, from
scratch), from its moving average or from a frozen teacher is not the objective's concern; see
`target_networks`.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import Schedule, expand

__all__ = [
    "Card",
    "Loss",
    "Objective",
    "PairClaim",
    "PairObjective",
    "Pairs",
    "Residuals",
    "Source",
    "Target",
]

PairClaim = Literal["exact", "exact on average", "exact up to the solver", "biased"]
Source = Literal["data", "velocity", "jumps"]


class Residuals(NamedTuple):
    """The squared residuals of one part of a loss.

    Attributes:
        of: the name of the objective.
        squared: (n,), detached.
        s, t: (n,), the times of each.
    """

    of: str
    squared: Tensor
    s: Tensor
    t: Tensor


class Loss(NamedTuple):
    """A training loss with its parts.

    Attributes:
        total: the scalar to minimise.
        terms: its terms by name, detached, for the log.
        residuals: what to trace a divergence by.
    """

    total: Tensor
    terms: dict[str, Tensor]
    residuals: tuple[Residuals, ...] = ()

    @staticmethod
    def of(
        objective: object, total: Tensor, term: str, squared: Tensor, s: Tensor, t: Tensor
    ) -> "Loss":
        """Builds a loss of one term, the mean of an objective's squared residuals at (s, t)."""
        squared = squared.detach()
        residuals = Residuals(type(objective).__name__, squared, s, t)
        return Loss(total, {term: squared.mean()}, (residuals,))

    def plus(self, other: "Loss", weight: float = 1.0) -> "Loss":
        """Adds another loss times a weight.

        Raises:
            ValueError: both have a term of the same name.
        """
        if shared := self.terms.keys() & other.terms.keys():
            raise ValueError(
                f"both losses have a term called {min(shared)!r}; give them different names"
            )
        return Loss(
            self.total + weight * other.total,
            {**self.terms, **other.terms},
            self.residuals + other.residuals,
        )


class Objective(nn.Module, ABC):
    """A training loss: objective(flow_map, x0, x1, cond, generator, step) -> Loss.

    x0 is noise and x1 data, both (B, *shape). It is a module, so that what an objective learns
    beside the map (a weighting) or keeps (a moving average) is trained and saved with it.

    Attributes:
        guidance: the weight of classifier-free guidance that it teaches; see FlowMap.guidance.
        learns_from: where its targets come from, in words: "data", "a teacher".
    """

    guidance: float = 1.0
    learns_from: tuple[str, ...]

    @abstractmethod
    def forward(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        x1: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        """Computes the loss of one batch, all randomness from the generator.

        `step` is the training step, for warm-ups.
        """


class Pairs(NamedTuple):
    """A batch with pairs of times.

    Attributes:
        x0, x1: noise and data (B, *shape).
        s, t: times (B,).
        cond: conditions.
        step: the training step.
    """

    x0: Tensor
    x1: Tensor
    s: Tensor
    t: Tensor
    cond: Cond = None
    step: int = 0

    def at_s(self, schedule: Schedule) -> Float[Tensor, "b *shape"]:
        """Computes I_s = alpha_s x1 + sigma_s x0."""
        return schedule.interpolate(self.x0, self.x1, self.s)

    def velocity_at_s(self, schedule: Schedule) -> Float[Tensor, "b *shape"]:
        """Computes I_s', whose mean given I_s is the velocity."""
        return schedule.path_velocity(self.x0, self.x1, self.s)

    @property
    def gap(self) -> Float[Tensor, "b *ones"]:
        """t - s, shaped to multiply x by."""
        return expand(self.t - self.s, self.x1)


class Target(NamedTuple):
    """The stop-gradient side of a residual.

    Attributes:
        velocity: the map whose velocity the student's jumps should follow.
        jumps: the map whose jumps are assumed to be right.
    """

    velocity: FlowMap
    jumps: FlowMap


class Card(NamedTuple):
    """The row of an objective in the table of the taxonomy.

    Attributes:
        notion: the identity whose residual it is.
        derivative: the derivative of the network that it takes.
        stop: where no gradient flows.
        cost: network passes per sample: F forward, J forward with its derivative, B backward.
    """

    notion: str
    derivative: str
    stop: str
    cost: str


class PairObjective(ABC):
    """An off-diagonal objective: the squared residual of one identity at given pairs of times.

    Attributes:
        card: its row in the taxonomy.
        asks: where its target comes from: "data" (the pair's own I'), the target's "velocity", the
            target's "jumps".
        claim: what is left at a flow map of the data that follows its own velocity: "exact", no
            residual and no gradient; "exact on average", noise, whose gradient vanishes in the
            mean; "exact up to the solver", the error of a numerical solver; "biased", more.
        group: how many samples side by side must share their times.
    """

    card: Card
    asks: frozenset[Source]
    claim: PairClaim
    group: int = 1

    @abstractmethod
    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        """Computes the squared residual of each sample, averaged over the entries of x."""


def mean_square(residual: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Averages the squares of each sample's residual over its entries, in float32 or better."""
    wide = residual.to(torch.promote_types(residual.dtype, torch.float32))
    return wide.square().flatten(1).mean(1)
