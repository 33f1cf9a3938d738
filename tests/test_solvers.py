"""Solvers: the order they claim, steps backwards, a time and a step of its own for every sample."""

import math
from itertools import pairwise

import pytest
import torch

from steer.solvers import Euler, Heun, Rk4

SOLVERS = [Euler(), Heun(), Rk4()]

every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)


def decay(x, t):
    """dx/dt = x cos(t), whose solution is x exp(sin t)."""
    return x * torch.cos(t)[:, None]


def integrate(solver, field, x, s, t, steps):
    h = (t - s) / steps
    for k in range(steps):
        x = solver.step(field, x, s + k * h, h)
    return x


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


@every_solver
def test_order_is_the_slope_of_the_error(solver):
    x = torch.ones(1, 1, dtype=torch.float64)
    s = times(0.0)
    t = times(2.0)
    errors = [
        abs(integrate(solver, decay, x, s, t, steps).item() - math.exp(math.sin(2.0)))
        for steps in (32, 64, 128, 256)
    ]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(solver.order, abs=0.1)
    assert slopes[0] == pytest.approx(solver.order, abs=0.3)


@every_solver
def test_polynomials_in_time_up_to_the_order_are_exact(solver):
    """dx/dt = d t^(d-1) is a quadrature: exact below the order, and not at the next odd degree."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    s = times(0.3)
    h = times(0.5)
    for degree in range(1, solver.order + 1):
        step = solver.step(lambda x, t, d=degree: (d * t ** (d - 1))[:, None], x, s, h)
        assert step.item() == pytest.approx(0.8**degree - 0.3**degree, abs=1e-14)


@every_solver
def test_backwards_undoes_forwards(solver):
    x = times(0.5, -1.5, 2.0)[:, None]
    s = times(0.0, 0.2, 0.9)
    t = times(1.0, 0.9, 0.1)
    coarse, fine = (
        (integrate(solver, decay, integrate(solver, decay, x, s, t, steps), t, s, steps) - x)
        .abs()
        .max()
        .item()
        for steps in (64, 128)
    )
    assert fine < 0.6 * coarse * 2 ** (1 - solver.order)
    assert fine < 10 * 128.0**-solver.order


@every_solver
def test_calls_the_field_as_often_as_it_says(solver):
    seen = []
    solver.step(
        lambda x, t: seen.append(t.item()) or x,
        torch.ones(1, 1, dtype=torch.float64),
        times(0.25),
        times(0.5),
    )
    assert len(seen) == solver.stages
    assert min(seen) == 0.25
    assert max(seen) == (0.25 if solver.order == 1 else 0.75)


@every_solver
def test_every_sample_has_its_own_time_and_step(solver):
    x = times(0.5, -1.5, 2.0)[:, None]
    t = times(0.0, 0.2, 0.9)
    h = times(0.1, 0.0, -0.3)
    together = solver.step(decay, x, t, h)
    alone = [solver.step(decay, x[i : i + 1], t[i : i + 1], h[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)
    assert together[1] == x[1]


@every_solver
def test_images_and_gradients_pass(solver):
    x = torch.ones(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = solver.step(lambda x, t: x, x, times(0.0, 0.5), times(0.1, 0.2))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    growth = [sum(h**k / math.factorial(k) for k in range(solver.order + 1)) for h in (0.1, 0.2)]
    torch.testing.assert_close(gradient[:, 0, 0, 0], times(*growth), rtol=1e-14, atol=0)
    torch.testing.assert_close(y[:, 2, 3, 4].detach(), times(*growth), rtol=1e-14, atol=0)
