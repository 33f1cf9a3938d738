"""Renoise: its weights against the density ratio in closed form, and the value they give."""

import pytest
import torch
from ball import Ball
from chance import generator, normal

from rewards import Quadratic
from steer import counting
from steer.analytic import GaussianMixture, ring
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Renoise
from steer.lookahead.glass_flow import Context, turn
from steer.lookahead.renoise_weights import gauss_legendre
from steer.metrics.energy_distance import energy_distance
from steer.metrics.floor import sampling_floor
from steer.samplers import TrajectoryTilting
from steer.tilt import Tilt
from steer.value import Value

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def mixture(schedule=None, steps=32):
    std = torch.tensor([[0.3, 0.9], [0.7, 0.5], [1.1, 0.4]], dtype=torch.float64)
    return GaussianMixture(
        [[2.0, -1.0], [0.5, 1.5], [-2.0, 0.0]], std, [1.0, 2.0, 3.0], schedule, steps=steps
    )


def points(law, t, n=3):
    return law.schedule.interpolate(normal(n, 2, seed=1), law.sample(n, generator(3)), t)


def exact_log_w(law, x, t, z):
    """log [N(x_t; alpha z, sigma^2) p_{t'}(x') / N(x'; h' c x_t / h, h'^2 s^2)], normalised, with
    x' the way back from z.
    """
    draws, n = z.shape[:2]
    many = Context(x, t, law.schedule).repeat(draws)
    c, s, h = turn(law.schedule, many.t)
    before = law.schedule.time_at(c**2, (1 - c**4).sqrt()).clamp(min=0)
    length = turn(law.schedule, before).h
    noisier = law(z.flatten(0, 1), 1.0, before)
    e = (noisier - (length * c / h)[:, None] * many.x_t) / (length * s)[:, None]
    misfit = (many.x_t - (c * h)[:, None] * z.flatten(0, 1)) / (s * h)[:, None]
    log_w = law.log_prob(noisier, before) + (e**2 - misfit**2).sum(1) / 2
    return torch.log_softmax(log_w.view(draws, n), 0)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_the_quadrature_is_exact_to_its_degree(nodes):
    for degree in range(2 * nodes):
        assert sum(w * a**degree for a, w in gauss_legendre(nodes)) == pytest.approx(
            1 / (degree + 1), rel=1e-12
        )


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_weights_are_the_density_ratio(schedule, t):
    """With many nodes, up to the oracle's own solver; one node is already near, two nearer."""
    law = mixture(schedule)
    x = points(law, t)
    errors = []
    for nodes in (1, 2, 4, 16):
        z, log_w = Renoise(50, nodes)(law, x, t, None, generator())
        errors.append((log_w - exact_log_w(law, x, t, z)).abs().mean().item())
    assert errors[3] < 1e-3
    assert errors[1] < errors[0] < 0.4


@every_schedule
def test_for_normal_data_the_weights_are_equal_and_z_is_a_draw(schedule):
    law, x, t = GaussianMixture([[0.0, 0.0]], 1.0, schedule=schedule), normal(1, 2), 0.4
    z, log_w = Renoise(500, nodes=1)(law, x, t, None, generator())
    torch.testing.assert_close(log_w, torch.full_like(log_w, 1 / 500).log(), rtol=1e-5, atol=1e-5)
    real, pool = (law.posterior_sample(x, t, k * 500, generator(k))[0] for k in (1, 2))
    assert (
        energy_distance(z[:, 0], real)
        < sampling_floor(energy_distance, pool, 100, generator()).max()
    )


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_value_and_its_gradient_tend_to_the_closed_forms(t):
    law, reward, copies = mixture(steps=8), Quadratic([1.0, 0.5], 1.0), 32
    x = points(law, t).requires_grad_()
    exact = law.value(reward, x, t)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), x)
    many = x.detach().repeat_interleave(copies, dim=0).requires_grad_()
    estimates = Value(Tilt(reward), Renoise(300, nodes=4))(law, many, t, None, generator())
    (gradients,) = torch.autograd.grad(estimates.sum(), many)
    for exactly, noisy in (
        (exact.detach()[:, None], estimates.detach()[:, None]),
        (exact_gradient, gradients),
    ):
        noisy = noisy.view(3, copies, -1)
        assert ((noisy.mean(1) - exactly).abs() < 4.5 * noisy.std(1) / copies**0.5 + 0.02).all()


def test_without_weights_the_value_is_biased():
    """What weighing by the reward alone makes of the same draws, on the ring: off by five times as
    much and more.
    """
    law, reward, t = ring(steps=8), Quadratic([1.0, 0.5], 0.3), 0.4
    x = points(law, t, n=16)
    z, log_w = Renoise(2000)(law, x, t, None, generator())
    rewards = torch.stack([reward(one) for one in z])
    weighted, plain = (
        torch.logsumexp(rewards + w, 0) for w in (log_w, torch.full_like(log_w, 1 / 2000).log())
    )
    errors = [(v - law.value(reward, x, t)).abs().mean() for v in (weighted, plain)]
    assert errors[1] > 5 * errors[0]


@every_schedule
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_gradient_is_finite_at_both_ends(schedule, t):
    law, x, t = (
        mixture(schedule),
        normal(3, 2).requires_grad_(),
        torch.full((3,), t).double().requires_grad_(),
    )
    z, log_w = Renoise(3)(law, x, t, None, generator())
    loss = z.square().sum() + (log_w * torch.arange(3)[:, None]).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x, t)))


def test_the_gradient_is_that_of_finite_differences():
    law, h, t = mixture(), 1e-6, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x, (dx, dt) = normal(3, 2), (normal(3, 2, seed=5), torch.ones(3, dtype=torch.float64))
    value = Value(Tilt(Quadratic([1.0, 0.0], 1.0)), Renoise(4))

    def of(x, t):
        return value(law, x, t, None, generator())

    _, slope = torch.autograd.functional.jvp(of, (x, t), (dx, dt))
    numeric = (of(x + h * dx, t + h * dt) - of(x - h * dx, t - h * dt)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-5)


def test_a_draw_costs_a_jump_and_its_nodes():
    x = normal(5, 2).requires_grad_()
    with counting.count() as tally:
        z, log_w = Renoise(4, nodes=2)(Ball(), x, 0.3, None, generator())
        (z.sum() + log_w[0].sum()).backward()
    assert (tally.network_forward, tally.network_backward) == (5 * 4 * 3, 5 * 4 * 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_steers_images(dtype):
    x0 = normal(2, 3, 1, 4, 4).to(dtype)
    sampler = TrajectoryTilting(3, Renoise(2), resample_below=1.0)
    result = sampler(Ball(), x0, Tilt(lambda x: x.flatten(1).mean(1)), None, generator())
    assert result.x.shape == x0.shape
    assert result.x.dtype == dtype
    assert result.log_w.isfinite().all()


def test_at_least_one_draw_and_one_node():
    with pytest.raises(ValueError, match="at least one draw and one node; got draws=4, nodes=0"):
        Renoise(4, 0)
