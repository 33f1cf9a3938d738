"""Endless streams whose k-th batch depends on the seed, k and the rank, and on nothing that happened before.

A resumed run starts its stream at the step it had reached and sees the very batches the uninterrupted run would have
seen: there is no position to save and nothing to fast-forward.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset


def key(*parts: int | str) -> int:
    """A 63-bit integer well mixed from its parts: equal parts, equal key; any other parts, an unrelated one."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def keyed_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `key(*parts)`, such as ("batch", seed, step, rank)."""
    return torch.Generator(device).manual_seed(key(*parts))


class StepStream(IterableDataset):
    """Batches number `first`, `first + 1`, ... without end, batch k being draw(generator keyed by (seed, k, rank)).

    Args:
        draw: draw(generator) -> one whole batch.
        seed: of the stream.
        first: number of the first batch; on resume, the batches already taken.
        rank: of this process; every rank draws batches of its own.
    """

    def __init__(self, draw: Callable[[torch.Generator], Any], seed: int, first: int = 0, rank: int = 0):
        self.draw, self.seed, self.first, self.rank = draw, seed, first, rank

    def __iter__(self) -> Iterator[Any]:
        for k in itertools.count(self.first):
            yield self.draw(keyed_generator("batch", self.seed, k, self.rank))


def step_loader(draw: Callable[[torch.Generator], Any], seed: int, trainer: Any) -> DataLoader:
    """The stream from where a Lightning trainer stands, new or resumed, as a loader that hands the batches through."""
    taken = trainer.global_step * trainer.accumulate_grad_batches
    return DataLoader(StepStream(draw, seed, taken, trainer.global_rank), batch_size=None, num_workers=0)
