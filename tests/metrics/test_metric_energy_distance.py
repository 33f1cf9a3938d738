"""Energy distance against closed forms on the line, sums written out, and its own sampling error."""

import math

import pytest
import torch

from steer.metrics import EnergyDistance, sampling_floor
from steer.metrics.energy_distance import distance_between, energy_distance


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_absolute(m: float, tau: float) -> float:
    """E|N(m, tau^2)|."""
    return tau * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * tau**2)) + m * math.erf(
        m / (tau * math.sqrt(2))
    )


def between_normals(m: float, s: float, r: float) -> float:
    """D(N(0, s^2), N(m, r^2)) in closed form."""
    root2 = math.sqrt(2)
    return (
        2 * mean_absolute(m, math.hypot(s, r))
        - mean_absolute(0, root2 * s)
        - mean_absolute(0, root2 * r)
    )


@pytest.mark.parametrize(("m", "s", "r"), [(0.0, 1.0, 1.0), (1.5, 1.0, 1.0), (0.3, 0.5, 2.0)])
def test_unbiased_on_gaussians_of_the_line(m, s, r):
    runs = [
        energy_distance(s * normal(100, 1, seed=i), m + r * normal(150, 1, seed=1000 + i))
        for i in range(100)
    ]
    runs = torch.stack(runs)
    assert abs(runs.mean() - between_normals(m, s, r)) < 4 * runs.std() / 10


def test_importance_weights_move_one_gaussian_onto_another():
    """x ~ N(0, 1) with log_w = x - 1/2 is N(1, 1)."""
    x, y = normal(30, 2000, 1), 1 + normal(30, 2000, 1, seed=1)
    runs = torch.stack(
        [energy_distance(a, b, log_w_x=a[:, 0] - 0.5) for a, b in zip(x, y, strict=True)]
    )
    assert abs(runs.mean()) < 4 * runs.std() / 30**0.5 + 0.005  # and a bias of order 1/ess
    assert runs.mean() < 0.02 * between_normals(1.0, 1.0, 1.0)


def test_the_sum_written_out():
    """x = {0, 1, 3} with weights (1/2, 1/4, 1/4), y = {2, 2, 5}.

    E|X-Y| = (1/3)(1/2 (2+2+5) + 1/4 (1+1+4) + 1/4 (1+1+2)) = 7/3
    E|X-X'| = (2/8 1 + 2/8 3 + 2/16 2) / (1 - 1/4 - 1/16 - 1/16) = 1.25 / .625 = 2;   E|Y-Y'| = (0 + 3 + 3)/3 = 2
    """
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[2.0], [2.0], [5.0]])
    log_w = torch.tensor([2.0, 1.0, 1.0]).log()
    assert energy_distance(x, y, log_w_x=log_w).item() == pytest.approx(14 / 3 - 4, abs=1e-7)


def test_weights_are_relative_and_minus_infinity_drops_a_sample():
    x = normal(40, 3)
    y = normal(30, 3, seed=1)
    log_w = normal(40, seed=2)
    base = energy_distance(x[:39], y, log_w[:39])
    torch.testing.assert_close(energy_distance(x[:39], y, log_w[:39] + 700), base)
    dropped = torch.cat([log_w[:39], torch.tensor([-math.inf], dtype=torch.float64)])
    torch.testing.assert_close(energy_distance(x, y, dropped), base, rtol=1e-7, atol=1e-9)


def test_symmetry_translation_rotation_and_scale():
    x, y = normal(60, 3), normal(50, 3, seed=1) + 1
    base = energy_distance(x, y)
    rotation = torch.linalg.qr(normal(3, 3, seed=2))[0]
    for same in (
        energy_distance(y, x),
        energy_distance(x + 1e4, y + 1e4),
        energy_distance(x @ rotation, y @ rotation),
    ):
        torch.testing.assert_close(same, base, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(energy_distance(3 * x, 3 * y), 3 * base, rtol=1e-6, atol=1e-8)


def test_blocks_do_not_change_the_sum(monkeypatch):
    x = normal(50, 2)
    y = normal(40, 2, seed=1)
    w = torch.rand(50).double()
    v = torch.rand(40).double()
    whole = distance_between(x, y, w, v)
    monkeypatch.setattr("steer.metrics.energy_distance.MAX_PAIRS", 130)
    torch.testing.assert_close(distance_between(x, y, w, v), whole)


def test_metric_is_its_kernel_however_updates_are_cut():
    x = normal(37, 2, 2)
    y = normal(23, 2, 2, seed=1)
    log_w = normal(37, seed=2)
    metric = EnergyDistance()
    metric.update(x[:10], real=False, log_w=log_w[:10])
    metric.update(y, real=True)
    metric.update(x[10:], real=False, log_w=log_w[10:])
    torch.testing.assert_close(metric.compute(), energy_distance(x.flatten(1), y.flatten(1), log_w))


def test_floor_is_centred_and_holds_a_fresh_pair():
    floor = sampling_floor(energy_distance, normal(400, 2), 60, torch.Generator().manual_seed(0))
    assert abs(floor.mean()) < 4 * floor.std() / 60**0.5 + 1e-3
    assert (
        energy_distance(normal(200, 2, seed=1), normal(200, 2, seed=2)).abs()
        < 4 * floor.square().mean().sqrt()
    )
    assert (
        energy_distance(normal(200, 2, seed=1), 0.7 + normal(200, 2, seed=2))
        > 4 * floor.square().mean().sqrt()
    )


def test_gradient_pulls_the_samples_together():
    x, y = normal(50, 2).requires_grad_(), normal(60, 2, seed=1)
    assert torch.autograd.gradcheck(energy_distance, (x[:5], y[:6]), atol=1e-4)
    (gradient,) = torch.autograd.grad(energy_distance(x + 2, y), x)
    assert (gradient.mean(0) > 0).all()


def test_bad_input():
    metric = EnergyDistance()
    metric.update(normal(3, 2), real=True)
    with pytest.raises(ValueError, match="no model ones"):
        metric.compute()
    with pytest.raises(ValueError, match="2 numbers each"):
        metric.update(normal(3, 4), real=False)
    with pytest.raises(ValueError, match="two samples with weight"):
        energy_distance(normal(1, 2), normal(3, 2))
    with pytest.raises(ValueError, match="log_w"):
        energy_distance(normal(2, 2), normal(3, 2), torch.tensor([0.0, math.nan]))
