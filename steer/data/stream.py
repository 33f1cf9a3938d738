"""Endless streams whose k-th batch depends on the seed, k and the rank, and on nothing that
happened before.

A resumed run starts its stream at the step it had reached and sees the very batches the
uninterrupted run would have seen: there is no position to save and nothing to fast-forward.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["StepStream", "key", "keyed_generator"]


def key(*parts: int | str) -> int:
    """A 63-bit integer well mixed from its parts: equal parts, equal key; any other parts, an
    unrelated one.
    """
    return (
        int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1
    )


def keyed_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `key(*parts)`, such as ("batch", seed, step, rank)."""
    return torch.Generator(device).manual_seed(key(*parts))


class StepStream(IterableDataset):
    """Batches number `first`, `first + 1`, ... without end, batch k being draw(generator keyed by
    (seed, k, rank)).

    Args:
        draw: draw(generator) -> one whole batch.
        seed: of the stream.
        first: number of the first batch; on resume, the batches already taken. A function is asked
            at the start of every pass, so that an epoch goes on where the last one ended.
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
        """Batch number k."""
        return self.draw(keyed_generator("batch", self.seed, k, self.rank))


class StepLoader(DataLoader):
    """A loader of a StepStream. Its state is empty: Lightning need not warn that a resumed run
    could read other batches.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def step_loader(draw: Callable[[torch.Generator], Any], seed: int, trainer: Any) -> DataLoader:
    """The stream from where a Lightning trainer stands, new, resumed or at a new epoch, as a loader
    of whole batches.
    """
    stream = StepStream(draw, seed, lambda: batches_taken(trainer), trainer.global_rank)
    return StepLoader(stream, batch_size=None, num_workers=0)


def batches_taken(trainer: Any) -> int:
    """How many batches of the stream a Lightning trainer has trained on.

    Counted in batches: an epoch may end in the middle of an accumulated step. With
    `overfit_batches` every epoch begins
    the stream anew, as that option promises.
    """
    taken = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    again = trainer.overfit_batches
    return taken % again if isinstance(again, int) and again > 0 else taken
