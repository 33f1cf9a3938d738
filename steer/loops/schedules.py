"""Learning-rate schedules: step -> the factor by which the learning rate is multiplied.

Any such callable will do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from steer.annotations import Count

__all__ = ["Constant", "Cosine", "InverseSqrt", "LrSchedule", "Trapezoid", "Warmup"]

LrSchedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """1 at every step."""

    def __call__(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """(1 + cos(pi step / steps)) / 2: from 1 down to 0 at `steps`, and 0 from there on."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Cosine falls over at least one step; got steps={self.steps}")

    def __call__(self, step: int) -> float:
        return (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2


@dataclass(frozen=True)
class Trapezoid:
    """1 until the last `decay` of `steps` steps, then linearly down to 0.

    A run may be ended at any time by decaying.
    """

    steps: int
    decay: Count

    def __call__(self, step: int) -> float:
        return min(max((self.steps - step) / self.decay, 0.0), 1.0)


@dataclass(frozen=True)
class InverseSqrt:
    """1 for the first `after` steps, then sqrt(after / step)."""

    after: int

    def __post_init__(self) -> None:
        if self.after < 1:
            raise ValueError(f"InverseSqrt holds for at least one step; got after={self.after}")

    def __call__(self, step: int) -> float:
        return math.sqrt(self.after / max(step, self.after))


@dataclass(frozen=True)
class Warmup:
    """min((step + 1) / steps, 1) then(step): a linear rise, while `then` already runs."""

    steps: int
    then: LrSchedule = Constant()

    def __call__(self, step: int) -> float:
        return min((step + 1) / max(self.steps, 1), 1.0) * self.then(step)
