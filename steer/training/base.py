"""What every training objective shares: laws of times, the split of the batch, and the sum L = L_diag + L_off.

A batch (x0, x1) comes in. A `diag_fraction` of it teaches the diagonal u_{t,t} = b_t by flow matching, which needs data
and nothing else; the rest teaches u_{s,t} off the diagonal from what the diagonal already knows.

Reference: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (self-distillation).
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap


class Loss(NamedTuple):
    """The number to descend, and its parts by name, detached, for the log."""

    total: Tensor
    terms: dict[str, Tensor]


class TimeLaw(ABC):
    """A law of times in (0, 1)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        """n independent times, in float32, on the generator's device."""


class Uniform(TimeLaw):
    """Every time alike."""

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return torch.rand(n, generator=generator, device=generator.device)


class LogitNormal(TimeLaw):
    """t = sigmoid(mean + std z): more weight where denoising is hardest (Esser et al. 2024, arXiv 2403.03206)."""

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        self.mean, self.std = mean, std

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return torch.sigmoid(self.mean + self.std * torch.randn(n, generator=generator, device=generator.device))


class SortedPair:
    """s <= t: two independent times of one law, sorted."""

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """n pairs (s, t)."""
        a, b = self.law.sample(n, generator), self.law.sample(n, generator)
        return torch.minimum(a, b), torch.maximum(a, b)


class Objective(ABC):
    """objective(flow_map, x0, x1, cond, generator, step) -> Loss, for noise x0 and data x1 of shape (B, *shape)."""

    @abstractmethod
    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        x1: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        """The loss on one batch. All randomness comes from the generator; `step` serves warm-ups."""


class PairObjective(ABC):
    """An off-diagonal objective: the squared residual of one identity of the flow map at given pairs of times."""

    @abstractmethod
    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        x1: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "b"]:
        """Squared residual per sample, averaged over the entries of x."""


class Joint(Objective):
    """L = L_diag + L_off: the diagonal from data, the rest of the map from the diagonal.

    Each part is the mean over its own samples, so that `diag_fraction` moves computation, not the balance of the sum.

    Args:
        diagonal: what teaches the tangent.
        off_diagonal: what teaches the jumps; None to train the velocity alone.
        diag_fraction: part of each batch that goes to the diagonal; below 1 it leaves a sample for the rest, if it can.
        diag_only_steps: first steps in which the whole batch does, before the diagonal is worth distilling.
        pairs: law of (s, t) off the diagonal.
    """

    def __init__(
        self,
        diagonal: Objective,
        off_diagonal: PairObjective | None = None,
        diag_fraction: float = 0.75,
        diag_only_steps: int = 0,
        pairs: SortedPair | None = None,
    ):
        if not 0 < diag_fraction <= 1:
            raise ValueError(f"diag_fraction is the part of the batch on the diagonal, in (0, 1]; got {diag_fraction}")
        self.diagonal, self.off_diagonal = diagonal, off_diagonal
        self.diag_fraction, self.diag_only_steps = diag_fraction, diag_only_steps
        self.pairs = pairs or SortedPair()

    def __call__(
        self, flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond, generator: torch.Generator, step: int
    ) -> Loss:
        off = 0 if self.off_diagonal is None or step < self.diag_only_steps else len(x1) - self._diagonal_size(len(x1))
        n = len(x1) - off
        loss = self.diagonal(flow_map, x0[:n], x1[:n], _part(cond, slice(None, n)), generator, step)
        if not off or self.off_diagonal is None:
            return loss
        s, t = self.pairs.sample(off, generator)
        residual = self.off_diagonal(flow_map, x0[n:], x1[n:], s, t, _part(cond, slice(n, None)), generator).mean()
        return Loss(loss.total + residual, {**loss.terms, "off_diagonal": residual.detach()})

    def _diagonal_size(self, batch: int) -> int:
        most = batch if self.diag_fraction == 1 else max(batch - 1, 1)
        return min(max(round(batch * self.diag_fraction), 1), most)


def _part(cond: Cond, rows: slice) -> Cond:
    return None if cond is None else cond[rows]


def mean_square(residual: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """The square of each sample's residual, averaged over its entries, in float32 or better."""
    return residual.to(torch.promote_types(residual.dtype, torch.float32)).square().flatten(1).mean(1)
