"""Guidance schedules, and norms of guidance gradients, on the steps of DDIM.

A strength is a number, a function of t, or a `GuidanceSchedule` that knows the whole grid; a `Norm`
sets the length of each sample's gradient.

Between the noisier x_s and the cleaner x_t stand the numbers of a `DdimStep`. With D and n the endpoints
seen from x_s, DDIM goes

    x_t = alpha_t D + kept n + fresh e,      a = alpha_s / alpha_t,
    fresh = eta sigma_t sqrt(sigma_s^2 - a^2 sigma_t^2) / sigma_s,      kept = sqrt(sigma_t^2 - fresh^2),

and the forward process comes back by x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) e, whatever the
law of x1.

References: Song et al. 2021, arXiv 2010.02502 (DDIM); Ye et al. 2024, arXiv 2409.15761 (the
schedules of TFG); and at each
norm the paper whose authors' code has it.
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
    """One step s -> t: alpha and sigma at its two ends, and DDIM's share of the noise that is kept
    and that is fresh.
    """

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
        """How far x_t moves with D if n moves too, so that both still make up x_s: alpha_t - kept
        alpha_s / sigma_s.
        """
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
    """A number for all steps, a function of t at the start of each, or a schedule evaluated on them."""
    if isinstance(strength, GuidanceSchedule):
        return strength(steps)
    return [float(strength(ddim.s) if callable(strength) else strength) for ddim in steps]


class Increasing(GuidanceSchedule):
    """TFG's "increase": in proportion to a^2, largest near the data, with the given mean over the
    steps.
    """

    def __init__(self, mean: float):
        self.mean = mean

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return _with_mean(self.mean, [ddim.ratio**2 for ddim in steps])


class Carried(GuidanceSchedule):
    """A displacement of x_s as x_t feels it in TFG: divided by a. DPS and FreeDoM add theirs to x_t
    as it is.
    """

    def __init__(self, strength: Strength):
        self.strength = strength

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [
            value / ddim.ratio
            for value, ddim in zip(on_steps(self.strength, steps), steps, strict=True)
        ]


class OnScore(GuidanceSchedule):
    """What x_t feels of a gradient, `factor` times of which is added to the score at x_s: factor *
    along * sigma_s^2 / alpha_s.

    The one strength that does not depend on the number of steps. With factor 1 the tilt's scale is
    an inverse temperature.
    """

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [self.factor * ddim.along * ddim.sigma_s**2 / ddim.alpha_s for ddim in steps]


class OverAlpha(GuidanceSchedule):
    """A displacement of x_t as a displacement of the clean guess: divided by alpha_t of the cleaner
    end (MPGD).
    """

    def __init__(self, strength: Strength):
        self.strength = strength

    def __call__(self, steps: Sequence[DdimStep]) -> list[float]:
        return [
            value / ddim.alpha_t
            for value, ddim in zip(on_steps(self.strength, steps), steps, strict=True)
        ]


class Noisiness(GuidanceSchedule):
    """sigma / sqrt(alpha^2 + sigma^2) times `factor`: the spread of x1 given x_t for data of unit
    variance.

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
    """One look at the reward, all (B, *shape): a gradient to follow, the gradient at the clean
    guess, the noise seen from x_s.

    On the clean guess the first two are the same.
    """

    gradient: Tensor
    at_guess: Tensor
    noise: Tensor


class Norm(ABC):
    """norm(gradients, ddim) -> gradient, sample by sample: what others of the batch do has no part in
    it.

    One that gives every gradient a length of its own erases the scale of the reward but for its
    sign.
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
    """Divided by the length that the gradient has at the clean guess, whatever the network makes of
    it from there.

    For r = -|y - x|^2, or any function of that distance, it is the gradient of -|y - D(x_s)|: the
    norm of the residual, not its square, as in the authors' code of DPS (Chung et al. 2023, arXiv
    2209.14687). For r = -|y - A(x)|^2 it goes the same way and is longer by |y - A(z)| / |A^T (y -
    A(z))|.
    """

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        length = lengths(gradients.at_guess)
        return gradients.gradient / expand(
            torch.where(length == 0, 1.0, length), gradients.gradient
        )


class Denoised(Norm):
    """As long as what the step takes away of the noise, along * sigma_s / alpha_s |n|.

    FreeDoM's for CLIP (Yu et al. 2023, arXiv 2303.09833), whose factor is .02, and whose lengths
    are of the whole batch.
    """

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        return of_length(
            ddim.along * ddim.sigma_s / ddim.alpha_s * lengths(gradients.noise), gradients.gradient
        )


class RootMeanSquare(Norm):
    """Every gradient of root mean square 1, as in the authors' code of MPGD (He et al. 2023, arXiv
    2311.16424).
    """

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        return of_length(math.sqrt(gradients.gradient[0].numel()), gradients.gradient)


class AtMost(Norm):
    """Shortened where its root mean square is above `most`, and left as it is elsewhere, so that
    the scale still counts.
    """

    def __init__(self, most: float):
        if not most > 0:
            raise ValueError(f"AtMost needs most > 0; got {most}")
        self.most = most

    def __call__(self, gradients: Gradients, ddim: DdimStep) -> Float[Tensor, "b *shape"]:
        length = lengths(gradients.gradient)
        return of_length(
            length.clamp_max(self.most * math.sqrt(gradients.gradient[0].numel())),
            gradients.gradient,
        )


def lengths(x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """|x| of each sample."""
    return x.flatten(1).norm(dim=1)


def of_length(
    length: float | Float[Tensor, "b"], gradient: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Each sample's gradient brought to a length; one that is zero stays zero."""
    norm = lengths(gradient)
    factor = length / torch.where(norm == 0, 1.0, norm)
    return gradient * factor.view(-1, *[1] * (gradient.ndim - 1))
