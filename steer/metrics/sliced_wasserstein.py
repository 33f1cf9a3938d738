"""Sliced Wasserstein distance: optimal transport along random lines, where it is only sorting.

SW_p(p, q)^p = E_theta int_0^1 |F_theta^-1(u) - G_theta^-1(u)|^p du,   theta uniform on the sphere,

F_theta, G_theta the laws of theta . X and theta . Y. The integral is exact for the weighted
samples, of equal number or not; the lines are a Monte-Carlo average. Biased upwards by sampling:
hold it against `sampling_floor`. Differentiable where it is positive.

Reference: Bonneel, Rabin, Peyré & Pfister 2015, "Sliced and Radon Wasserstein barycenters of
measures".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.metrics.two_samples import TwoSamples
from steer.metrics.weights import normalized

__all__ = ["SlicedWasserstein"]

LINES_AT_ONCE = 16


def wasserstein_power(
    x: Float[Tensor, "k n"],
    y: Float[Tensor, "k m"],
    w: Float[Tensor, " n"],
    v: Float[Tensor, " m"],
    p: float,
) -> Float[Tensor, " k"]:
    """W_p^p of k pairs of weighted samples on the line: int_0^1 |F^-1(u) - G^-1(u)|^p du, exact.

    Args:
        x, y: (k, n) and (k, m) samples.
        w, v: (n,) and (m,) normalised weights, shared by the k pairs.
        p: the power, at least 1.
    """
    x, x_order = x.sort(-1)
    y, y_order = y.sort(-1)
    x_level, y_level = w[x_order].cumsum(-1), v[y_order].cumsum(-1)
    levels = torch.cat([x_level, y_level], -1).sort(-1).values
    width = levels.diff(dim=-1, prepend=torch.zeros_like(levels[:, :1]))
    middle = levels - width / 2  # between two levels both quantile functions are constant
    gap = _quantile(x, x_level, middle) - _quantile(y, y_level, middle)
    return (width * gap.abs() ** p).sum(-1)


def _quantile(sorted_x: Tensor, level: Tensor, u: Tensor) -> Tensor:
    i = torch.searchsorted(level, u).clamp(
        max=level.shape[-1] - 1
    )  # the last level may round to just below 1
    return sorted_x.gather(-1, i)


def sliced_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    directions: Float[Tensor, "k d"],
    p: float = 2.0,
    log_w_x: Float[Tensor, " n"] | None = None,
    log_w_y: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """(mean_k W_p^p along direction k)^(1/p) between two weighted sets, in float64.

    Args:
        x: (n, d) samples of p.
        y: (m, d) samples of q.
        directions: (k, d) unit vectors, as from `random_directions`.
        p: the power, at least 1.
        log_w_x: (n,) log-weights of x, equal ones if None.
        log_w_y: (m,) log-weights of y, equal ones if None.
    """
    w = normalized(x.new_zeros(len(x)) if log_w_x is None else log_w_x)
    v = normalized(y.new_zeros(len(y)) if log_w_y is None else log_w_y)
    x, y = x.double(), y.double()
    powers = [
        wasserstein_power(lines @ x.T, lines @ y.T, w, v, p)
        for lines in directions.double().split(LINES_AT_ONCE)
    ]
    return torch.cat(powers).mean() ** (1 / p)


def random_directions(
    count: int, dimension: int, generator: torch.Generator
) -> Float[Tensor, "count dimension"]:
    """Unit vectors uniform on the sphere, in float64."""
    theta = torch.randn(
        count, dimension, generator=generator, dtype=torch.float64, device=generator.device
    )
    return theta / theta.norm(dim=-1, keepdim=True)


class SlicedWasserstein(TwoSamples):
    """Sliced Wasserstein distance between the model's samples, weighted if need be, and the
    reference's.

    update(samples (n, *shape), real, log_w=None); compute() -> scalar.

    Args:
        projections: number of lines; those of one seed are the same in every compute and on every
            rank.
        p: the power, at least 1.
        seed: draws the lines.
    """

    def __init__(self, projections: int = 128, p: float = 2.0, seed: int = 0) -> None:
        if projections < 1 or p < 1:
            raise ValueError(
                f"expected projections >= 1 and p >= 1, got {projections} and {p}; 128 and 2.0 serve well"
            )
        super().__init__()
        self.projections = projections
        self.p = p
        self.seed = seed

    def distance(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        log_w: Float[Tensor, " n"],
        log_w_real: Float[Tensor, " m"],
    ) -> Float[Tensor, ""]:
        """(mean over lines of W_p^p)^(1/p)."""
        lines = random_directions(
            self.projections, x.shape[1], torch.Generator().manual_seed(self.seed)
        )
        return sliced_wasserstein(x, y, lines.to(x.device), self.p, log_w, log_w_real)
