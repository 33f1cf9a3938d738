"""Maximum mean discrepancy against its closed form between Gaussians, and sums written out."""

import math

import pytest
import torch

from steer.metrics import MaximumMeanDiscrepancy
from steer.metrics.mmd import mmd


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_kernel(bandwidth, variance, distance, d):
    """E k(X, Y) where X - Y ~ N(m, variance I), |m| = distance."""
    total = bandwidth**2 + variance
    return (bandwidth**2 / total) ** (d / 2) * math.exp(-(distance**2) / (2 * total))


@pytest.mark.parametrize("bandwidth", [0.3, 2.0])
@pytest.mark.parametrize(("shift", "r"), [(0.0, 1.0), (1.5, 1.0), (0.3, 2.0)])
def test_unbiased_on_gaussians_of_the_plane(bandwidth, shift, r):
    x, y = normal(100, 80, 2), r * normal(100, 120, 2, seed=1) + torch.tensor([shift, 0.0])
    runs = torch.stack([mmd(a, b, bandwidth) for a, b in zip(x, y, strict=True)])
    pairs = ((2.0, 0.0, 1), (2 * r**2, 0.0, 1), (1 + r**2, shift, -2))
    exact = sum(
        sign * mean_kernel(bandwidth, variance, distance, 2) for variance, distance, sign in pairs
    )
    assert abs(runs.mean() - exact) < 4 * runs.std() / 10


@pytest.mark.slow
def test_importance_weights_move_one_gaussian_onto_another():
    """x ~ N(0, 1) with log_w = x - 1/2 is N(1, 1)."""
    x, y = normal(30, 2000, 1), 1 + normal(30, 2000, 1, seed=1)
    runs = torch.stack([mmd(a, b, 0.5, log_w_x=a[:, 0] - 0.5) for a, b in zip(x, y, strict=True)])
    plain = mmd(x[0], y[0], 0.5)
    assert abs(runs.mean()) < 4 * runs.std() / 30**0.5 + 0.02 * plain


def test_the_sum_written_out():
    """x = {0, 1} of weights (3/4, 1/4), y = {0, 2}: one pair within each, four between them."""
    x = torch.tensor([[0.0], [1.0]])
    y = torch.tensor([[0.0], [2.0]])
    h = 0.7

    def k(distance):
        return math.exp(-(distance**2) / (2 * h**2))

    expected = k(1) + k(2) - 2 * (3 / 8 * (1 + k(2)) + 1 / 8 * (k(1) + k(1)))
    assert float(mmd(x, y, h, log_w_x=torch.tensor([3.0, 1.0]).log())) == pytest.approx(expected)
    metric = MaximumMeanDiscrepancy(h)
    metric.update(x, real=False, log_w=torch.tensor([3.0, 1.0]).log())
    metric.update(y[:1], real=True)
    metric.update(y[1:], real=True)
    assert float(metric.compute()) == pytest.approx(expected)


def test_a_bandwidth_is_positive():
    with pytest.raises(ValueError, match="positive; got 0"):
        mmd(normal(4, 1), normal(4, 1), 0)
    with pytest.raises(ValueError, match="positive; got -1"):
        MaximumMeanDiscrepancy(-1)
