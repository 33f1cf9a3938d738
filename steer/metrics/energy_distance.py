"""Energy distance, which is zero only for equal laws and has no bandwidth, bins or features.

D(p, q) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|,   X, X' ~ p and Y, Y' ~ q independent, |.| Euclidean.

Estimated by U-statistics (no sample is paired with itself): unbiased for equal weights, hence of
either sign when the laws agree, with a size given by `sampling_floor`. Self-normalised weights have
a bias of order 1/ess.

Reference: Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances".
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from steer.metrics.two_samples import TwoSamples
from steer.metrics.weights import MIN_PAIR_MASS, normalized, pair_mass

__all__ = ["EnergyDistance"]

MAX_PAIRS = 2**22  # distances held at once: 32 MiB in float64


def energy_distance(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    log_w_x: Float[Tensor, " n"] | None = None,
    log_w_y: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """Compute D between two weighted sets, in float64, in memory of order n + m without gradients.

    Distances come from inner products of the centred samples: coincident points are 1e-8 of their
    scale apart.

    Args:
        x: (n, d) samples of p.
        y: (m, d) samples of q.
        log_w_x: (n,) log-weights of x, equal ones if None.
        log_w_y: (m,) log-weights of y, equal ones if None.

    Raises:
        ValueError: when fewer than two samples of a side carry weight.
    """
    x, y, w, v = centred(x, y, log_w_x, log_w_y)
    return 2 * distance_between(x, y, w, v) - distance_within(x, w) - distance_within(y, v)


def centred(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    log_w_x: Float[Tensor, " n"] | None,
    log_w_y: Float[Tensor, " m"] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre both sets at the mean of the second, in float64, and normalise their weights.

    Centring keeps the rounding of distances small, which are computed from inner products.
    """
    w = normalized(x.new_zeros(len(x)) if log_w_x is None else log_w_x)
    v = normalized(y.new_zeros(len(y)) if log_w_y is None else log_w_y)
    x, y = x.double(), y.double()
    center = v @ y
    return x - center, y - center, w, v


Pairing = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) -> (n, m)


def distance_between(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    w: Float[Tensor, " n"],
    v: Float[Tensor, " m"],
    pairing: Pairing = torch.cdist,
) -> Float[Tensor, ""]:
    """Compute sum_ij w_i v_j |x_i - y_j|, or that of another pairing, in bounded memory."""
    block = max(1, MAX_PAIRS // len(y))
    sums = [a @ pairing(b, y) @ v for b, a in zip(x.split(block), w.split(block), strict=True)]
    return torch.stack(sums).sum()


def distance_within(
    x: Float[Tensor, "n d"],
    w: Float[Tensor, " n"],
    pairing: Pairing = torch.cdist,
    of_itself: float = 0.0,
) -> Float[Tensor, ""]:
    """Compute sum_{i != j} w_i w_j |x_i - x_j| / sum_{i != j} w_i w_j.

    Args:
        x: points.
        w: normalised weights.
        pairing: in place of the distance.
        of_itself: the pairing of a point with itself.

    Raises:
        ValueError: when fewer than two points carry weight.
    """
    mass = pair_mass(w)
    if not mass > MIN_PAIR_MASS:
        raise ValueError(
            "expected at least two samples with weight, got one; resample or temper the weights"
        )
    return (distance_between(x, x, w, w, pairing) - of_itself * w.square().sum()) / mass


class EnergyDistance(TwoSamples):
    """The energy distance between (weighted) model samples and reference samples.

    update(samples (n, *shape), real, log_w=None); compute() -> scalar.
    """

    def distance(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        log_w: Float[Tensor, " n"],
        log_w_real: Float[Tensor, " m"],
    ) -> Float[Tensor, ""]:
        """Compute 2 E|X-Y| - E|X-X'| - E|Y-Y'|."""
        return energy_distance(x, y, log_w, log_w_real)
