"""Distributions of times: single ones for the diagonal, pairs (s, t) off it.

Times are drawn in float32 or better, also where a training in bfloat16 makes that torch's default.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "AnyPair",
    "Dyadic",
    "Grouped",
    "LogitNormal",
    "Mixture",
    "OnGrid",
    "PairLaw",
    "SortedPair",
    "TimeLaw",
    "ToData",
    "Uniform",
]


def uniform(n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Draws n uniform numbers."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=_precise())


def normal(n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Draws n normal numbers."""
    return torch.randn(n, generator=generator, device=generator.device, dtype=_precise())


def _precise() -> torch.dtype:
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class TimeLaw(ABC):
    """A distribution of times in (0, 1)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        """Draws n independent times, in float32, on the generator's device."""


class Uniform(TimeLaw):
    """Uniform times."""

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return uniform(n, generator)


class LogitNormal(TimeLaw):
    """t = sigmoid(mean + std z): more weight where denoising is hardest.

    Reference: Esser et al. 2024, arXiv 2403.03206.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        self.mean = mean
        self.std = std

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return torch.sigmoid(self.mean + self.std * normal(n, generator))


class PairLaw(ABC):
    """A distribution of pairs of times (s, t).

    Attributes:
        label: the pairs in words, for tables.
        to_data: whether t = 1 in every pair.
        takes_times: whether its times may be those of another distribution, see `of`.
    """

    label: str = "two"
    to_data: bool = False
    takes_times: bool = False

    @abstractmethod
    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Draws n independent pairs (s, t), in float32, on the generator's device."""

    def of(self, law: TimeLaw) -> "PairLaw":
        """Builds the same pairs of times of another distribution.

        Raises:
            ValueError: its times are not those of a distribution that could be another.
        """
        raise ValueError(
            f"{type(self).__name__} has its own times, not those of a law; leave times out, or give"
            " pairs"
        )


class SortedPair(PairLaw):
    """s <= t: two independent times of one distribution, sorted."""

    takes_times = True

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        a = self.law.sample(n, generator)
        b = self.law.sample(n, generator)
        return torch.minimum(a, b), torch.maximum(a, b)

    def of(self, law: TimeLaw) -> PairLaw:
        return SortedPair(law)


class AnyPair(PairLaw):
    """Two independent times of one distribution in either order.

    For objectives that also learn jumps back toward noise.
    """

    label = "two, either order"
    takes_times = True

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        return self.law.sample(n, generator), self.law.sample(n, generator)

    def of(self, law: TimeLaw) -> PairLaw:
        return AnyPair(law)


class ToData(PairLaw):
    """t = 1: jumps to data alone, the only ones of a consistency model."""

    label = "to data (t = 1)"
    to_data = True
    takes_times = True

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        s = self.law.sample(n, generator)
        return s, torch.ones_like(s)

    def of(self, law: TimeLaw) -> PairLaw:
        return ToData(law)


class Dyadic(PairLaw):
    """Gaps t - s = 2^-k, k = 0 ... levels - 1, equally likely, s a multiple of the gap.

    The grid of shortcut models (Frans et al. 2024, arXiv 2410.12557): halving a jump lands on the
    next finer level.
    """

    label = "two, on a grid"

    def __init__(self, levels: int = 7):
        if levels < 1:
            raise ValueError(f"Dyadic needs at least one level; got levels={levels}")
        self.levels = levels

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        k = torch.randint(self.levels, (n,), generator=generator, device=generator.device)
        jumps = 2.0 ** k.to(_precise())
        s = (uniform(n, generator) * jumps).floor() / jumps
        return s, s + 1 / jumps


class OnGrid(PairLaw):
    """(k / n, (k + 1) / n): one of n equal jumps, as in a round of progressive distillation."""

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"OnGrid needs at least one jump; got n={n}")
        self.n = n
        self.to_data = n == 1
        self.label = "from noise to data" if n == 1 else "two, on a grid"

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        k = torch.randint(self.n, (n,), generator=generator, device=generator.device)
        s = k.to(_precise()) / self.n
        return s, s + 1 / self.n


class Grouped(PairLaw):
    """Another law's pairs, each for `group` samples side by side, as `MomentMatching` wants them.

    Raises:
        ValueError: a group below 1.
    """

    def __init__(self, group: int, law: PairLaw | None = None):
        if group < 1:
            raise ValueError(f"Grouped needs groups of at least one sample; got group={group}")
        self.group = group
        self.law = law or SortedPair()
        self.label = self.law.label
        self.to_data = self.law.to_data
        self.takes_times = self.law.takes_times

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        s, t = self.law.sample(-(-n // self.group), generator)
        return s.repeat_interleave(self.group)[:n], t.repeat_interleave(self.group)[:n]

    def of(self, law: TimeLaw) -> PairLaw:
        return Grouped(self.group, self.law.of(law))


class Mixture(PairLaw):
    """Each pair from one of several laws, chosen by their weights.

    Args:
        laws: of pairs.
        weights: of each, positive; they need not sum to one.

    Raises:
        ValueError: as many weights as laws are expected, all positive, and no Grouped among the
            laws, whose groups would be torn apart.
    """

    def __init__(self, laws: Sequence[PairLaw], weights: Sequence[float]):
        if len(laws) != len(weights) or not laws or min(weights) <= 0:
            raise ValueError(
                "expected one positive weight for each law;"
                f" got {len(laws)} laws and weights {weights}"
            )
        if any(isinstance(law, Grouped) for law in laws):
            raise ValueError(
                "Mixture would tear groups apart; put it inside: Grouped(group, Mixture(...))"
            )
        self.laws = laws
        self.weights = tuple(weights)
        self.label = " or ".join(dict.fromkeys(law.label for law in laws))
        self.to_data = all(law.to_data for law in laws)

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        weights = torch.tensor(self.weights, dtype=torch.float32, device=generator.device)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        drawn = torch.stack([torch.stack(law.sample(n, generator)) for law in self.laws])
        s, t = drawn[chosen, :, torch.arange(n, device=generator.device)].unbind(dim=1)
        return s, t
