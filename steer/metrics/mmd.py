"""Squared maximum mean discrepancy of two laws, with a Gaussian kernel.

MMD^2(p, q) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),   k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

Estimated by U-statistics (no sample is paired with itself): unbiased for equal weights, hence of
either sign when the laws agree. It is sensitive to details of the size of the bandwidth, while the
energy distance is dominated by large scales.

Reference: Gretton, Borgwardt, Rasch, Schölkopf & Smola 2012, "A kernel two-sample test", JMLR 13.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.metrics.energy_distance import centred, distance_between, distance_within
from steer.metrics.two_samples import TwoSamples

__all__ = ["MaximumMeanDiscrepancy"]


def mmd(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    bandwidth: float,
    log_w_x: Float[Tensor, " n"] | None = None,
    log_w_y: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """Compute MMD^2 between two weighted sets, in float64, in memory of order n + m.

    Args:
        x: (n, d) samples of p.
        y: (m, d) samples of q.
        bandwidth: standard deviation of the kernel, in units of x.
        log_w_x: (n,) log-weights of x, equal ones if None.
        log_w_y: (m,) log-weights of y, equal ones if None.

    Raises:
        ValueError: for a bandwidth that is not positive; when fewer than two samples of a side
            carry weight.
    """
    if not bandwidth > 0:
        raise ValueError(f"the bandwidth of a kernel is positive; got {bandwidth}")
    x, y, w, v = centred(x, y, log_w_x, log_w_y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(a, b) / bandwidth).square())

    within = distance_within(x, w, kernel, 1.0) + distance_within(y, v, kernel, 1.0)
    return within - 2 * distance_between(x, y, w, v, kernel)


class MaximumMeanDiscrepancy(TwoSamples):
    """The squared maximum mean discrepancy between (weighted) model and reference samples.

    update(samples (n, *shape), real, log_w=None); compute() -> scalar.

    Args:
        bandwidth: standard deviation of the kernel, in units of the samples.
    """

    def __init__(self, bandwidth: float):
        super().__init__()
        if not bandwidth > 0:
            raise ValueError(f"the bandwidth of a kernel is positive; got {bandwidth}")
        self.bandwidth = bandwidth

    def distance(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        log_w: Float[Tensor, " n"],
        log_w_real: Float[Tensor, " m"],
    ) -> Float[Tensor, ""]:
        """Compute E k(X, X') + E k(Y, Y') - 2 E k(X, Y)."""
        return mmd(x, y, self.bandwidth, log_w, log_w_real)
