"""Sliced Wasserstein against transport that is known exactly."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from steer.metrics import SlicedWasserstein
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein

LINE = torch.ones(1, 1, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_a_shift_costs_its_length_along_each_line(p):
    x = normal(200, 3)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    directions = random_directions(40, 3, torch.Generator().manual_seed(1))
    expected = (directions @ shift).abs().pow(p).mean() ** (1 / p)
    torch.testing.assert_close(sliced_wasserstein(x, x + shift, directions, p), expected)


def test_shifted_and_scaled_gaussian_on_the_line():
    """W_2^2(N(0, 1), N(m, r^2)) = m^2 + (r - 1)^2, within the error of the run."""
    m = 0.7
    r = 1.5
    runs = torch.stack(
        [
            sliced_wasserstein(normal(3000, 1, seed=i), m + r * normal(3000, 1, seed=99 + i), LINE)
            for i in range(20)
        ]
    )
    assert abs(runs.mean() - math.hypot(m, r - 1)) < 4 * runs.std() / 20**0.5 + 1e-3


def test_equal_sizes_pair_in_order():
    x, y = normal(101, 1), normal(101, 1, seed=1)
    pairs = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    torch.testing.assert_close(sliced_wasserstein(x, y, LINE), pairs)


def test_unequal_sizes_are_equal_after_repetition():
    x, y = normal(12, 1), normal(8, 1, seed=1)
    repeated = sliced_wasserstein(x.repeat(2, 1), y.repeat(3, 1), LINE, 3.0)
    torch.testing.assert_close(sliced_wasserstein(x, y, LINE, 3.0), repeated)


def test_weighted_first_power_against_scipy():
    x = normal(30, 1)
    y = normal(50, 1, seed=1)
    log_w_x = normal(30, seed=2)
    log_w_y = normal(50, seed=3)
    expected = wasserstein_distance(x[:, 0], y[:, 0], log_w_x.exp(), log_w_y.exp())
    assert sliced_wasserstein(x, y, LINE, 1.0, log_w_x, log_w_y).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_integer_weights_are_copies():
    x = normal(4, 2)
    y = normal(9, 2, seed=1)
    copies = torch.tensor([3, 1, 0, 2])
    directions = random_directions(20, 2, torch.Generator().manual_seed(0))
    weighted = sliced_wasserstein(x, y, directions, log_w_x=copies.double().log())
    torch.testing.assert_close(
        weighted, sliced_wasserstein(x.repeat_interleave(copies, 0), y, directions)
    )


def test_zero_for_the_same_samples_in_another_order():
    x = normal(500, 4)
    directions = random_directions(20, 4, torch.Generator().manual_seed(0))
    assert sliced_wasserstein(x, x.flip(0), directions) < 1e-12


def test_directions_are_uniform_on_the_sphere():
    theta = random_directions(20_000, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(theta.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    assert theta.mean(0).abs().max() < 4 / (3 * 20_000) ** 0.5
    assert (theta.T @ theta / 20_000 - torch.eye(3) / 3).abs().max() < 0.01


def test_gradient():
    x, y = normal(5, 2).requires_grad_(), normal(7, 2, seed=1)
    directions = random_directions(6, 2, torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: sliced_wasserstein(x, y, directions), (x,))


def test_metric_is_its_kernel_however_updates_are_cut():
    x = normal(37, 2)
    y = normal(23, 2, seed=1)
    log_w = normal(37, seed=2)
    metric = SlicedWasserstein(projections=33, p=1.5, seed=4)
    metric.update(y[:20], real=True)
    metric.update(x[:10], real=False, log_w=log_w[:10])
    metric.update(x[10:], real=False, log_w=log_w[10:])
    metric.update(y[20:], real=True)
    directions = random_directions(33, 2, torch.Generator().manual_seed(4))
    torch.testing.assert_close(metric.compute(), sliced_wasserstein(x, y, directions, 1.5, log_w))
    metric.reset()
    metric.update(x, real=False)
    metric.update(x, real=True)
    assert metric.compute() < 1e-12


def test_bad_input():
    with pytest.raises(ValueError, match="p >= 1"):
        SlicedWasserstein(p=0.5)
