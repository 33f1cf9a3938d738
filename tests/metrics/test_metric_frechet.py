"""Fréchet distance against closed forms, and its streaming moments against numpy's."""

import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from steer.metrics import FrechetDistance, frechet_distance
from steer.metrics.moments import moments, pool, unpack


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(d: int, rank: int, seed: int) -> torch.Tensor:
    a = normal(d, rank, seed=seed)
    return a @ a.T


def whitened(n: int, d: int) -> torch.Tensor:
    """n points of mean exactly 0 and covariance exactly 1."""
    x = normal(n, d)
    x = x - x.mean(0)
    return torch.linalg.qr(x)[0] * (n - 1) ** 0.5


def test_commuting_covariances():
    """|mu|^2 + sum_i (sqrt a_i - sqrt b_i)^2."""
    basis = torch.linalg.qr(normal(5, 5))[0]
    a = normal(5, seed=1).square()
    b = normal(5, seed=2).square()
    mu = normal(5, seed=3)
    distance = frechet_distance(mu, basis * a @ basis.T, 0 * mu, basis * b @ basis.T)
    torch.testing.assert_close(distance, mu.square().sum() + (a.sqrt() - b.sqrt()).square().sum())


def test_general_covariances_against_scipy():
    c1 = covariance(6, 6, 0)
    c2 = covariance(6, 8, 1)
    mu = torch.zeros(6)
    expected = c1.trace() + c2.trace() - 2 * sqrtm((c1 @ c2).numpy()).trace().real
    torch.testing.assert_close(frechet_distance(mu, c1, mu, c2), expected)


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_zero_for_the_same_law_even_when_singular(rank):
    mu = normal(40)
    cov = covariance(40, rank, 1)
    assert frechet_distance(mu, cov, mu, cov).abs() < 1e-6 * cov.trace()


def test_orthogonal_subspaces_keep_both_traces():
    c1 = torch.diag(torch.tensor([2.0, 0, 0]))
    c2 = torch.diag(torch.tensor([0, 3.0, 1]))
    assert frechet_distance(torch.zeros(3), c1, torch.zeros(3), c2).item() == pytest.approx(6)


def test_metric_on_an_affine_image_of_whitened_points():
    """x whitened against diag(a) x + b: |b|^2 + |a - 1|^2 exactly, whatever the number of points."""
    x = whitened(60, 3)
    a = torch.tensor([0.5, 1.0, 3.0])
    b = torch.tensor([1.0, 0.0, -2.0])
    metric = FrechetDistance(nn.Identity(), dimension=3, max_batch=7)
    metric.update(x, real=True)
    for part in (a * x + b).split([1, 30, 29]):
        metric.update(part, real=False)
    assert metric.compute().item() == pytest.approx(5 + 0.25 + 4)
    metric.reset()
    with pytest.raises(ValueError, match="at least 2"), pytest.warns(UserWarning, match="before"):
        metric.compute()


def test_bias_at_equal_laws():
    """Of N(0, 1) in d dimensions: 2 d / n from the means and d (d + 1) / (2 n) from the
    covariances.
    """
    d = 4
    n = 1000
    runs = []
    for i in range(40):
        metric = FrechetDistance(nn.Flatten(), dimension=d)
        metric.update(normal(n, 1, 2, 2, seed=i), real=True)
        metric.update(normal(n, 1, 2, 2, seed=1000 + i), real=False)
        runs.append(metric.compute())
    stacked = torch.stack(runs)
    expected = 2 * d / n + d * (d + 1) / (2 * n)
    assert abs(stacked.mean() - expected) < 4 * stacked.std() / 40**0.5


def test_pooled_moments_are_joint_and_lose_no_digits_far_from_zero():
    f = 1e-3 * normal(50, 3) + 1e5
    empty = torch.zeros(4, 4, dtype=torch.float64)
    n, mean, cov = unpack(
        pool(torch.stack([empty, *(moments(part) for part in f.split([1, 9, 40]))]))
    )
    assert n == 50
    torch.testing.assert_close(mean, f.mean(0))
    torch.testing.assert_close(cov, f.T.cov(), rtol=1e-6, atol=0)
    torch.testing.assert_close(pool(torch.stack([empty, empty])), empty)


def test_bad_input():
    metric = FrechetDistance(nn.Flatten(), dimension=5)
    with pytest.raises(ValueError, match="set dimension to d"):
        metric.update(normal(3, 1, 2, 2), real=True)
    with pytest.raises(ValueError, match="not at sample 2"):
        FrechetDistance(lambda x: x.log(), dimension=1, max_batch=2).update(
            torch.tensor([[1.0], [2], [-1]]), real=True
        )
    with pytest.raises(ValueError, match="positive semi-definite"):
        frechet_distance(
            torch.zeros(2), torch.diag(torch.tensor([1.0, -0.1])), torch.zeros(2), torch.eye(2)
        )
    with pytest.raises(ValueError, match="one row for each of 4 samples"):
        FrechetDistance(lambda x: x.mean(), dimension=1).update(normal(4, 1), real=True)
