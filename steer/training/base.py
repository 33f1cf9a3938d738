"""What every training objective is: a loss on noise and data, and for the jumps a squared residual
at pairs of times.

An off-diagonal objective writes one identity of the flow map as a residual of the `student`, the
map being learned, against what is `held` fixed: the velocity that its jumps should follow, and
jumps that already count as known. Whether these come from the student itself (self-distillation,
from scratch), from its moving average, or from a frozen teacher is not the objective's concern; see
`teachers`.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import Schedule, expand

__all__ = ["Card", "Target", "Loss", "Objective", "PairObjective", "Pairs", "Residuals"]


class Residuals(NamedTuple):
    """The squared residuals (n,) in one part of a loss, detached: whose they are, and the times s
    and t (n,) of each.
    """

    of: str
    squared: Tensor
    s: Tensor
    t: Tensor


class Loss(NamedTuple):
    """The number to descend; its parts by name, detached, for the log; and what to trace a
    divergence by.
    """

    total: Tensor
    terms: dict[str, Tensor]
    residuals: tuple[Residuals, ...] = ()

    @staticmethod
    def of(
        objective: object, total: Tensor, term: str, squared: Tensor, s: Tensor, t: Tensor
    ) -> "Loss":
        """A loss of one term, the mean of an objective's squared residuals at (s, t)."""
        squared = squared.detach()
        return Loss(
            total, {term: squared.mean()}, (Residuals(type(objective).__name__, squared, s, t),)
        )

    def plus(self, other: "Loss", weight: float = 1.0) -> "Loss":
        """The sum of two losses, the second weighted. Raises ValueError if both have a term of one
        name.
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
    """objective(flow_map, x0, x1, cond, generator, step) -> Loss, for noise x0 and data x1 of shape
    (B, *shape).

    A module, so that what an objective learns beside the map (a weighting) or keeps (a moving
    average) is trained and saved with it.
    """

    guidance: float = (
        1.0  # the weight of classifier-free guidance that it teaches; see FlowMap.guidance
    )

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
        """The loss on one batch. All randomness comes from the generator; `step` serves warm-ups."""


class Pairs(NamedTuple):
    """Noise x0 and data x1 (B, *shape), times s and t (B,), conditions, and the training step."""

    x0: Tensor
    x1: Tensor
    s: Tensor
    t: Tensor
    cond: Cond = None
    step: int = 0

    def at_s(self, schedule: Schedule) -> Float[Tensor, "b *shape"]:
        """I_s = alpha_s x1 + sigma_s x0."""
        return schedule.interpolate(self.x0, self.x1, self.s)

    def velocity_at_s(self, schedule: Schedule) -> Float[Tensor, "b *shape"]:
        """I_s', whose mean given I_s is the velocity."""
        return schedule.path_velocity(self.x0, self.x1, self.s)

    @property
    def gap(self) -> Float[Tensor, "b *ones"]:
        """t - s, shaped to multiply x by."""
        return expand(self.t - self.s, self.x1)


class Target(NamedTuple):
    """What is held fixed: the map whose `velocity` is to be followed, and the one whose jumps are
    taken as known.
    """

    velocity: FlowMap
    jumps: FlowMap


class Card(NamedTuple):
    """What an objective says of itself, for the table of the taxonomy."""

    notion: str  # the identity whose residual it is
    derivative: str  # which derivative of the network it takes
    stop: str  # where no gradient flows
    cost: str  # network passes per sample: F forward, J forward with its derivative, B backward


class PairObjective(ABC):
    """An off-diagonal objective: the squared residual of one identity of the flow map at given
    pairs of times.
    """

    card: Card
    asks: frozenset[
        str
    ]  # where its target comes from: "data" (the pair's own I'), held "velocity", held "jumps"

    @abstractmethod
    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        """Squared residual per sample, averaged over the entries of x."""


def mean_square(residual: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """The square of each sample's residual, averaged over its entries, in float32 or better."""
    return (
        residual.to(torch.promote_types(residual.dtype, torch.float32)).square().flatten(1).mean(1)
    )
