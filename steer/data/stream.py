"""Endless streams whose k-th batch depends on the seed, k and the rank alone.

A resumed run starts its stream at the step it had reached and sees the batches of the uninterrupted
run, with no position to save and nothing to fast-forward.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from steer.conditions import Cond

__all__ = ["StepStream", "Stream", "key", "keyed_generator"]

Batch = tuple[Tensor, Cond]


class Stream(ABC):
    """A source of batches (x1, cond), each drawn from a generator, such as a `StreamData`."""

    @abstractmethod
    def prepare_data(self) -> None:
        """Do once what all processes need, such as a download."""

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Make it ready to draw."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Batch:
        """Draw a batch x1 (B, *shape) and its conditions from the generator alone.

        Conditions are labels (B,), embeddings (B, E), a list of B texts, a steer.Condition or None.
        """


def key(*parts: int | str) -> int:
    """Hash the parts to a 63-bit integer."""
    return (
        int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1
    )


def keyed_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator seeded by `key(*parts)`, such as ("batch", seed, step, rank)."""
    return torch.Generator(device).manual_seed(key(*parts))


class StepStream(IterableDataset):
    """Batches `first`, `first + 1`, ..., batch k drawn by a generator keyed by (seed, k, rank).

    Args:
        draw: draw(generator) -> one whole batch.
        seed: of the stream.
        first: number of the first batch; on resume, the batches already taken. A function is
            called at the start of every pass, so that an epoch continues where the last one ended.
        rank: of this process; every rank draws batches of its own.
    """

    def __init__(
        self,
        draw: Callable[[torch.Generator], Any],
        seed: int,
        first: int | Callable[[], int] = 0,
        rank: int = 0,
    ):
        self.draw = draw
        self.seed = seed
        self.first = first
        self.rank = rank

    def __iter__(self) -> Iterator[Any]:
        first = self.first() if callable(self.first) else self.first
        return (self.batch(k) for k in itertools.count(first))

    def batch(self, k: int) -> Any:
        """Draw batch number k."""
        return self.draw(keyed_generator("batch", self.seed, k, self.rank))


class StepLoader(DataLoader):
    """A loader of a StepStream, with an empty state, which tells Lightning that it can resume."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing."""


def step_loader(draw: Callable[[torch.Generator], Any], seed: int, trainer: Any) -> DataLoader:
    """Make a loader of the stream from the current batch of a Lightning trainer on."""
    stream = StepStream(draw, seed, lambda: batches_taken(trainer), trainer.global_rank)
    return StepLoader(stream, batch_size=None, num_workers=0)


def batches_taken(trainer: Any) -> int:
    """Count the batches of the stream that a Lightning trainer has trained on.

    The count is in batches, since an epoch may end in the middle of an accumulated step. With
    `overfit_batches` every epoch restarts the stream.
    """
    taken = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    again = trainer.overfit_batches
    return taken % again if isinstance(again, int) and again > 0 else taken
