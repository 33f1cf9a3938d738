"""The noise that samples of many prompts start from, drawn as it is asked for."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from steer.data.stream import keyed_generator

BLOCK = 16  # normal numbers that torch draws at once on a CPU


class Noise:
    """x0 (prompts, particles, *shape), the same for the same seed on every device, in any parts.

    A part is drawn by itself where that gives the numbers of the whole, which it does for prompts
    of whole blocks of normal numbers; other samples are few numbers each, and are drawn together.

    Args:
        seed: of the run.
        shape: (prompts, particles, *shape).
        dtype, device: of what is returned.
    """

    def __init__(
        self, seed: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ):
        self.seed = seed
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.drawn = 0  # prompts that the generator has drawn
        self.generator = keyed_generator("x0", seed)
        self.kept: Tensor | None = None

    def part(self, prompts: range) -> Tensor:
        """The noise of consecutive prompts, on the device."""
        if prod(self.shape[1:]) % BLOCK:
            return self.whole()[prompts.start : prompts.stop].to(self.device)
        if self.drawn > prompts.start:
            self.drawn = 0
            self.generator = keyed_generator("x0", self.seed)
        while self.drawn < prompts.start:
            self.next(1)
        return self.next(len(prompts)).to(self.device)

    def next(self, prompts: int) -> Tensor:
        """The noise of so many prompts from where the generator is."""
        self.drawn += prompts
        shape = (prompts, *self.shape[1:])
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)

    def whole(self) -> Tensor:
        """The noise of all prompts, on the CPU, kept for the next call."""
        if self.kept is None:
            generator = keyed_generator("x0", self.seed)
            self.kept = torch.randn(self.shape, generator=generator, dtype=self.dtype)
        return self.kept
