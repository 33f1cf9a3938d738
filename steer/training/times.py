"""Laws of times: single ones for the diagonal, pairs (s, t) off it.

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
    """n uniform numbers."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=_precise())


def normal(n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """n normal numbers."""
    return torch.randn(n, generator=generator, device=generator.device, dtype=_precise())


def _precise() -> torch.dtype:
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class TimeLaw(ABC):
    """A law of times in (0, 1)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        """n independent times, in float32, on the generator's device."""


class Uniform(TimeLaw):
    """Every time alike."""

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return uniform(n, generator)


class LogitNormal(TimeLaw):
    """t = sigmoid(mean + std z): more weight where denoising is hardest (Esser et al. 2024, arXiv
    2403.03206).
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        self.mean, self.std = mean, std

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return torch.sigmoid(self.mean + self.std * normal(n, generator))


class PairLaw(ABC):
    """A law of pairs of times, s before t."""

    @abstractmethod
    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """n independent pairs (s, t), in float32, on the generator's device."""

    def of(self, law: TimeLaw) -> "PairLaw":
        """The same law of pairs, of times of another law. Raises ValueError where it has none to
        change.
        """
        raise ValueError(
            f"{type(self).__name__} has its own times, not those of a law; leave times out, or give pairs"
        )


class SortedPair(PairLaw):
    """s <= t: two independent times of one law, sorted."""

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        a, b = self.law.sample(n, generator), self.law.sample(n, generator)
        return torch.minimum(a, b), torch.maximum(a, b)

    def of(self, law: TimeLaw) -> PairLaw:
        return SortedPair(law)


class AnyPair(PairLaw):
    """Two independent times of one law in either order, for objectives that also learn jumps back
    toward noise.
    """

    def __init__(self, law: TimeLaw | None = None):
        self.law = law or Uniform()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        return self.law.sample(n, generator), self.law.sample(n, generator)

    def of(self, law: TimeLaw) -> PairLaw:
        return AnyPair(law)


class ToData(PairLaw):
    """t = 1: jumps to data alone, which is all that a consistency model knows."""

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
    """Gaps t - s = 2^-k, k = 0 ... levels - 1, each as likely, at a start s that is a multiple of
    the gap.

    The grid of shortcut models (Frans et al. 2024, arXiv 2410.12557): halving a jump lands on the
    next finer level.
    """

    def __init__(self, levels: int = 7):
        if levels < 1:
            raise ValueError(f"Dyadic needs at least one level; got {levels}")
        self.levels = levels

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        k = torch.randint(self.levels, (n,), generator=generator, device=generator.device)
        jumps = 2.0 ** k.to(_precise())
        s = (uniform(n, generator) * jumps).floor() / jumps
        return s, s + 1 / jumps


class OnGrid(PairLaw):
    """(k / n, (k + 1) / n): one jump of a sampler of n equal jumps, as in a round of progressive
    distillation.
    """

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"OnGrid needs at least one jump; got n={n}")
        self.n = n

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        k = torch.randint(self.n, (n,), generator=generator, device=generator.device)
        s = k.to(_precise()) / self.n
        return s, s + 1 / self.n


class Grouped(PairLaw):
    """Another law's pairs, each for `group` samples side by side, as `MomentMatching` wants them."""

    def __init__(self, group: int, law: PairLaw | None = None):
        if group < 1:
            raise ValueError(f"Grouped needs groups of at least one sample; got {group}")
        self.group, self.law = group, law or SortedPair()

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        s, t = self.law.sample(-(-n // self.group), generator)
        return s.repeat_interleave(self.group)[:n], t.repeat_interleave(self.group)[:n]

    def of(self, law: TimeLaw) -> PairLaw:
        return Grouped(self.group, self.law.of(law))


class Mixture(PairLaw):
    """Each pair from one of several laws, chosen by their weights: where to spend the training.

    Args:
        laws: of pairs.
        weights: of each, positive; they need not sum to one.
    """

    def __init__(self, laws: Sequence[PairLaw], weights: Sequence[float]):
        if len(laws) != len(weights) or not laws or min(weights) <= 0:
            raise ValueError(
                f"expected one positive weight for each law; got {len(laws)} laws and weights {weights}"
            )
        if any(isinstance(law, Grouped) for law in laws):
            raise ValueError(
                "Mixture would tear groups apart; put it inside: Grouped(group, Mixture(...))"
            )
        self.laws, self.weights = laws, tuple(weights)

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        weights = torch.tensor(self.weights, dtype=torch.float32, device=generator.device)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        drawn = (torch.stack(law.sample(n, generator)) for law in self.laws)
        s, t = torch.stack(list(drawn))[chosen, :, torch.arange(n, device=generator.device)].unbind(
            dim=1
        )
        return s, t
