"""Guidance schedules, and norms of guidance gradients, on the steps of DDIM.

A strength is a number, a function of t, or a `GuidanceSchedule` that knows the whole grid; a `Norm`
sets the length of each sample's gradient.

A step from the noisier x_s to the cleaner x_t has the coefficients of a `DdimStep`. With D and n
the endpoints predicted at x_s, DDIM takes

    x_t = alpha_t D + kept n + fresh e,      a = alpha_s / alpha_t,
    fresh = eta sigma_t sqrt(sigma_s^2 - a^2 sigma_t^2) / sigma_s,
    kept = sqrt(sigma_t^2 - fresh^2),

and the forward process comes back by x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) e, whatever the
law of x1.

References: Song et al. 2021, arXiv 2010.02502 (DDIM); Ye et al. 2024, arXiv 2409.15761 (the
schedules of TFG); each norm names the paper whose authors' code has it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.interpolant import Schedule, expand

__all__ = [
    "AtMost",
    "Carried",
    "Denoised",
    "Increasing",
    "Length",
    "Noisiness",
    "OnScore",
    "OverAlpha",
    "RootMeanSquare",
    "UnitAtGuess",
]


class DdimStep(NamedTuple):
    """One step s -> t: alpha and sigma at both ends, and DDIM's kept and fresh noise."""

    s: float
    t: float
    alpha_s: float
    sigma_s: float
    alpha_t: float
    sigma_t: float
    kept: float
    fresh: float

    @property
    def ratio(self) -> float:
        """a = alpha_s / alpha_t, the square root of the alpha_t of diffusion papers."""
        return self.alpha_s / self.alpha_t

    @property
    def back(self) -> float:
        """Standard deviation of the noise that leads from x_t back to x_s."""
        return math.sqrt(self.sigma_s**2 - (self.ratio * self.sigma_t) ** 2)

    @property
    def along(self) -> float:
        """alpha_t - kept alpha_s / sigma_s: dx_t / dD at fixed x_s, with n moving too."""
        return self.alpha_t - self.kept * self.alpha_s / self.sigma_s


def ddim_steps(
    schedule: Schedule, times: Sequence[float], eta: float, margin: float = 1e-3
) -> list[DdimStep]:
    """The steps of a grid of times.

    A path with alpha = 0 at its first time is entered at `margin` instead (or half way to the next,
    if that is nearer): steps of diffusion papers divide by alpha, which on their paths is never 0.
    The law there is the noise's up to O(margin).
    """
    found = []
    for s, t in pairwise(times):
        alpha_s, sigma_s = (float(c) for c in schedule(s)[:2])
        if alpha_s == 0:
            s = min(margin, (s + t) / 2)
            alpha_s, sigma_s = (float(c) for c in schedule(s)[:2])
        alpha_t, sigma_t = (float(c) for c in schedule(t)[:2])
        ddim = DdimStep(s, t, alpha_s, sigma_s, alpha_t, sigma_t, 0.0, 0.0)
        fresh = eta * sigma_t * ddim.back / sigma_s
        found.append(ddim._replace(kept=math.sqrt(sigma_t**2 - fresh**2), fresh=fresh))
    return found


class GuidanceSchedule(ABC):
    """schedule(steps) -> one strength for each of them."""

    @abstractmethod
    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        """The strengths."""


Strength = float | Callable[[float], float] | GuidanceSchedule


def on_steps(strength: Strength, steps: Sequence[DdimStep]) -> list[float]:
    """Evaluates a number, a function of the start of each step, or a schedule on the steps."""
    if isinstance(strength, GuidanceSchedule):
        return strength(steps)
    return [float(strength(ddim.s) if callable(strength) else strength) for ddim in steps]


class Increasing(GuidanceSchedule):
    """TFG's "increase": proportional to a^2, largest near the data, with a given mean."""

    def __init__(self, mean: float):
        self.mean = mean

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return _with_mean(self.mean, [ddim.ratio**2 for ddim in steps])


class Carried(GuidanceSchedule):
    """A displacement of x_s carried to x_t, divided by a, as in TFG.

    DPS and FreeDoM add theirs to x_t unscaled.
    """

    def __init__(self, strength: Strength):
        self.strength = strength

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [
            value / ddim.ratio
            for value, ddim in zip(on_steps(self.strength, steps), steps, strict=True)
        ]


class OnScore(GuidanceSchedule):
    """A gradient added `factor` times to the score at x_s: factor * along * sigma_s^2 / alpha_s.

    The only strength that does not depend on the number of steps. With factor 1 the tilt's scale
    is an inverse temperature.
    """

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [self.factor * ddim.along * ddim.sigma_s**2 / ddim.alpha_s for ddim in steps]


class OverAlpha(GuidanceSchedule):
    """A displacement of x_t applied to the clean guess, divided by alpha_t (MPGD)."""

    def __init__(self, strength: Strength):
        self.strength = strength

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [
            value / ddim.alpha_t
            for value, ddim in zip(on_steps(self.strength, steps), steps, strict=True)
        ]


class Noisiness(GuidanceSchedule):
    """`factor` times sigma / sqrt(alpha^2 + sigma^2), the posterior std for unit-variance data.

    TFG's gamma_t, factor sqrt(1 - alpha-bar_t), and LGD-MC's, sigma_t / sqrt(1 + sigma_t^2) on its
    own path.
    """

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [
            self.factor * ddim.sigma_s / math.hypot(ddim.alpha_s, ddim.sigma_s) for ddim in steps
        ]


def _with_mean(mean: float, weights: list[float]) -> list[float]:
    total = sum(weights) / len(weights)
    return [mean * w / total for w in weights]


# --- the length of a gradient -------------------------------------------------------------------
class Gradients(NamedTuple):
    """Gradients of the reward in a step, all (B, *shape).

    Attributes:
        gradient: the gradient to follow.
        at_guess: that in the clean guess; for a step on the guess itself, the same.
        noise: the noise predicted at x_s.
    """

    gradient: Tensor
    at_guess: Tensor
    noise: Tensor


class Norm(ABC):
    """norm(gradients, ddim) -> gradient, each sample by itself.

    A norm that fixes the length of the gradient makes the method invariant to the reward's scale.
    """

    @abstractmethod
    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        """The gradient to follow."""


class Length(Norm):
    """Every gradient of one length."""

    def __init__(self, length: float):
        if not length > 0:
            raise ValueError(f"norm is a positive length, a Norm or None; got {length}")
        self.length = length

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        return of_length(self.length, gradients.gradient)


class UnitAtGuess(Norm):
    """The gradient divided by its length at the clean guess.

    For r = -|y - x|^2, or any function of that distance, it is the gradient of -|y - D(x_s)|: the
    norm of the residual, not its square, as in the authors' code of DPS (Chung et al. 2023, arXiv
    2209.14687). For r = -|y - A(x)|^2 it goes the same way and is longer by |y - A(z)| / |A^T (y -
    A(z))|.
    """

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        length = lengths(gradients.at_guess)
        length = torch.where(length == 0, 1.0, length)
        return gradients.gradient / expand(length, gradients.gradient)


class Denoised(Norm):
    """The length of the noise that the step removes, along * sigma_s / alpha_s |n|.

    FreeDoM's for CLIP (Yu et al. 2023, arXiv 2303.09833), with a factor of .02 and lengths of the
    whole batch there.
    """

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        removed = ddim.along * ddim.sigma_s / ddim.alpha_s * lengths(gradients.noise)
        return of_length(removed, gradients.gradient)


class RootMeanSquare(Norm):
    """A root mean square of 1, as in the code of MPGD (He et al. 2023, arXiv 2311.16424)."""

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        return of_length(math.sqrt(gradients.gradient[0].numel()), gradients.gradient)


class AtMost(Norm):
    """The gradient clipped to a root mean square of `most`."""

    def __init__(self, most: float):
        if not most > 0:
            raise ValueError(f"AtMost needs most > 0; got {most}")
        self.most = most

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        longest = self.most * math.sqrt(gradients.gradient[0].numel())
        length = lengths(gradients.gradient).clamp_max(longest)
        return of_length(length, gradients.gradient)


def lengths(x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """|x| of each sample."""
    return x.flatten(1).norm(dim=1)


def of_length(
    length: float | Float[Tensor, "b"], gradient: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Rescales each sample's gradient to a length; one that is zero stays zero."""
    norm = lengths(gradient)
    factor = length / torch.where(norm == 0, 1.0, norm)
    return gradient * factor.view(-1, *[1] * (gradient.ndim - 1))
