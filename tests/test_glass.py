"""The flow inside the flow, against the posterior of a Gaussian mixture, which is a Gaussian
mixture.
"""

import math

import pytest
import torch
from ball import Ball
from chance import generator, normal
from hidden import ExactInner, hidden_law
from selection import slow_but

from rewards import Quadratic
from steer import counting
from steer.analytic import GaussianMixture, ring
from steer.flow_map import OdeMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Glass
from steer.lookahead.glass_flow import Context, GlassFlow, posterior_draws, turn
from steer.metrics.energy_distance import energy_distance
from steer.metrics.floor import sampling_floor
from steer.samplers import TrajectoryTilting
from steer.solvers import Euler, Heun, Rk4
from steer.tilt import Tilt
from steer.value import Value

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def mixture(schedule=None):
    axes = torch.linalg.qr(normal(3, 2, 2)).Q
    std = torch.tensor([[0.3, 0.9], [0.7, 0.5], [1.1, 0.4]], dtype=torch.float64)
    means = torch.tensor([[2.0, -1.0], [0.5, 1.5], [-2.0, 0.0]], dtype=torch.float64)
    return GaussianMixture(means, std, [1.0, 2.0, 3.0], schedule, axes)


def at(law, t, n=4, seed=3):
    """n points of the path at t, as a Context, and n noises."""
    x = law.schedule.interpolate(normal(n, 2, seed=seed), law.sample(n, generator(seed)), t)
    return Context(x, t, law.schedule), normal(n, 2, seed=seed + 1)


# What x_t shows and hides


@every_schedule
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_shown_and_hidden_make_the_clean_sample(schedule, t):
    x0, x1 = normal(2, 5, 1, 4, 4)
    context = Context(schedule.interpolate(x0, x1, t), t, schedule)
    c, s, h = (a[:, None, None, None] for a in turn(schedule, context.t))
    torch.testing.assert_close(context.x_t / h, c * x1 + s * x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(context.clean(context.hidden(x0, x1)), x1, rtol=1e-12, atol=1e-12)


def test_a_context_is_cut_like_a_condition():
    for cond in (None, torch.arange(6), list("abcdef"), normal(6, 3)):
        context = Context(normal(6, 2), torch.linspace(0, 1, 6), Linear(), cond)
        part = context[slice(2, 5)]
        assert len(part) == 3
        assert torch.equal(part.x_t, context.x_t[2:5])
        assert torch.equal(part.t, context.t[2:5])
        assert cond is None or list(map(str, part.cond)) == list(map(str, cond[2:5]))
        twice = part.repeat(2)
        assert torch.equal(twice.x_t, torch.cat((part.x_t, part.x_t)))
        assert torch.equal(twice.t, torch.cat((part.t, part.t)))
        assert cond is None or list(map(str, twice.cond)) == 2 * list(map(str, cond[2:5]))


@every_schedule
def test_the_time_of_a_ratio_has_a_slope_at_the_data_too(schedule):
    sigma, alpha = (
        torch.tensor([0.0, 1e-6], dtype=torch.float64).requires_grad_(),
        torch.ones(2, dtype=torch.float64),
    )
    t = schedule.time_at(alpha, sigma)
    assert t[0] == 1
    (slope,) = torch.autograd.grad(t.sum(), sigma)
    torch.testing.assert_close(slope[0], slope[1], rtol=1e-4, atol=0)


# The velocity


@every_schedule
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 0.7, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("u", [0.0, 1e-6, 0.4, 1.0])
def test_the_velocity_is_that_of_the_posterior(schedule, t, u):
    law = mixture(schedule)
    context, y = at(law, t)
    exact = ExactInner(law).velocity(y, u, context)
    torch.testing.assert_close(
        GlassFlow(law).velocity(y, u, context), exact, rtol=1e-10, atol=1e-10
    )


def test_the_outer_condition_goes_along():
    law, cond = mixture(), torch.tensor([0, 2, -1, 1])
    context, y = at(law, 0.3)
    context = Context(context.x_t, context.t, law.schedule, cond)
    exact = ExactInner(law).velocity(y, 0.4, context)
    torch.testing.assert_close(
        GlassFlow(law).velocity(y, 0.4, context), exact, rtol=1e-10, atol=1e-10
    )


def test_samples_do_not_see_each_other():
    law, t, u = (
        mixture(),
        torch.tensor([0.0, 0.2, 0.9, 1.0]).double(),
        torch.tensor([0.0, 1.0, 0.3, 1.0]).double(),
    )
    context, y = Context(normal(4, 2), t, law.schedule), normal(4, 2, seed=1)
    together = GlassFlow(law).velocity(y, u, context)
    alone = [
        GlassFlow(law).velocity(y[i : i + 1], u[i : i + 1], context[i : i + 1]) for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


# The jump


@every_schedule
@pytest.mark.parametrize("t", slow_but(["0.3"], [0.0, 0.3, 0.9], ["0.0", "0.3", "0.9"]))
def test_the_jump_is_that_of_the_straight_path_to_the_clean_sample(schedule, t):
    """Another clock and scale, the same map: X_{0,1}(e) of the mixture p(x1 | x_t) on the straight
    path from e.
    """
    law = mixture(schedule)
    context, e = at(law, t)
    found = context.clean(GlassFlow(law, 64, Rk4())(e, 0.0, 1.0, context))
    for i in range(len(e)):
        posterior, _, _ = law._posterior(context.x_t[i : i + 1], t)
        means, std = law._back(posterior.mean)[0], posterior.var[0].sqrt()
        clean = GaussianMixture(means, std, posterior.log_w[0].exp(), axes=law.axes, steps=128)
        torch.testing.assert_close(
            found[i : i + 1], clean(e[i : i + 1], 0.0, 1.0), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("solver", [Euler(), Heun(), Rk4()], ids=lambda s: type(s).__name__)
def test_jumps_converge_with_the_order_of_the_solver(solver):
    law = mixture()
    context, e = at(law, 0.3, n=32)
    exact = GlassFlow(law, 256, Rk4())(e, 0.0, 1.0, context)
    errors = [
        (GlassFlow(law, n, solver)(e, 0.0, 1.0, context) - exact).norm(dim=1).median()
        for n in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.4)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.97])
def test_a_few_steps_err_by_little_of_the_posteriors_width_at_every_time(t):
    """Eight evaluations, on a ring of radius 4.75: 4 % of sigma / alpha. Toward x1 itself it would
    be 390 % at t = .97.
    """
    context, e = at(law := ring(), t, n=256)
    exact = context.clean(GlassFlow(law, 128, Rk4())(e, 0.0, 1.0, context))
    error = context.clean(GlassFlow(law)(e, 0.0, 1.0, context)) - exact
    assert error.norm(dim=1).mean() < 0.04 * (1 - t) / t


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_draws_have_the_law_of_the_posterior(t):
    """Energy distance below the largest of 100 between sets of exact draws, and moments within 4.5
    standard errors.
    """
    law, n = mixture(), 500
    context, _ = at(law, t, n=3)
    drawn = posterior_draws(GlassFlow(law, 16), context, n, generator()).transpose(0, 1)
    true, spare = (law.posterior_sample(context.x_t, t, 2 * n, generator(seed)) for seed in (1, 2))
    for found, real, pool in zip(drawn, true[:, :n], spare, strict=True):
        assert (
            energy_distance(found, real)
            < sampling_floor(energy_distance, pool, 100, generator()).max()
        )
        for a, b in ((found, real), (found**2, real**2)):
            assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * ((a.var(0) + b.var(0)) / n).sqrt()).all()


def test_at_the_noise_it_is_the_outer_flow_and_at_the_data_it_stays():
    law = mixture()
    context, e = at(law, 0.0)
    outer = OdeMap(law, law.schedule, 8, Heun())(e, 0.0, 1.0)
    torch.testing.assert_close(
        context.clean(GlassFlow(law, 8)(e, 0.0, 1.0, context)), outer, rtol=1e-12, atol=1e-12
    )
    context, e = at(law, 1.0)
    assert torch.equal(context.clean(GlassFlow(law, 2)(e, 0.0, 1.0, context)), context.x_t)


# The look-ahead


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_value_and_its_gradient_tend_to_the_closed_forms(t):
    """On the ring, over independent estimates; the log of a mean is biased by half its variance,
    far below here.
    """
    law, reward, copies = ring(), Quadratic([1.0, 0.5], 0.3), 32
    x = at(law, t, n=3)[0].x_t.requires_grad_()
    exact = law.value(reward, x, t)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), x)
    many = x.detach().repeat_interleave(copies, dim=0).requires_grad_()
    estimates = Value(Tilt(reward), Glass(300, steps=8))(law, many, t, None, generator())
    (gradients,) = torch.autograd.grad(estimates.sum(), many)
    for exactly, noisy in (
        (exact.detach()[:, None], estimates.detach()[:, None]),
        (exact_gradient, gradients),
    ):
        noisy = noisy.view(3, copies, -1)
        assert ((noisy.mean(1) - exactly).abs() < 4.5 * noisy.std(1) / copies**0.5 + 5e-3).all()


@every_schedule
def test_the_gradient_is_that_of_finite_differences(schedule):
    law, h, t = mixture(schedule), 1e-6, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x, (dx, dt) = normal(3, 2), (normal(3, 2, seed=5), torch.ones(3, dtype=torch.float64))

    def draws(x, t):
        return Glass(2, steps=2)(law, x, t, None, generator()).x1

    _, slope = torch.autograd.functional.jvp(draws, (x, t), (dx, dt))
    numeric = (draws(x + h * dx, t + h * dt) - draws(x - h * dx, t - h * dt)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-6)


@every_schedule
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_gradient_is_finite_at_both_ends(schedule, t):
    law, x, t = (
        mixture(schedule),
        normal(3, 2).requires_grad_(),
        torch.full((3,), t).double().requires_grad_(),
    )
    x1 = Glass(2, steps=2)(law, x, t, None, generator()).x1
    assert all(g.isfinite().all() for g in torch.autograd.grad(x1.square().sum(), (x, t)))


def test_a_draw_costs_steps_times_stages():
    x = normal(5, 2).requires_grad_()
    with counting.count() as tally:
        Glass(3, steps=4, solver=Heun())(mixture(), x, 0.3, None, generator()).x1.sum().backward()
    assert (tally.network_forward, tally.network_backward) == (5 * 3 * 8, 5 * 3 * 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_steers_images(dtype):
    x0 = normal(2, 3, 1, 4, 4).to(dtype)
    sampler = TrajectoryTilting(3, Glass(2, steps=1), resample_below=1.0)
    result = sampler(Ball(), x0, Tilt(lambda x: x.flatten(1).mean(1)), None, generator())
    assert result.x.shape == x0.shape
    assert result.x.dtype == dtype
    assert result.log_w.isfinite().all()


# Wrong input


def test_it_says_what_it_needs():
    law = mixture()
    with pytest.raises(ValueError, match=r"takes cond=Context\(x_t, t, schedule\); got none"):
        GlassFlow(law).velocity(normal(2, 2), 0.5)
    with pytest.raises(
        ValueError, match=r"on the path steer.Trigonometric\(\), the flow map on steer.Linear\(\)"
    ):
        GlassFlow(law).velocity(normal(2, 2), 0.5, Context(normal(2, 2), 0.5, Trigonometric()))
    with pytest.raises(ValueError, match="GlassFlow needs at least one step; got steps=0"):
        GlassFlow(law, steps=0)
    with pytest.raises(ValueError, match="at least one draw and one step; got draws=0, steps=4"):
        Glass(draws=0)


def test_the_closed_form_of_what_is_hidden():
    """The helper: y of exact posterior draws has the moments of hidden_law."""
    law, n, t = mixture(Trigonometric()), 40_000, 0.4
    context, _ = at(law, t, n=1)
    x1 = law.posterior_sample(context.x_t, t, n, generator())[0]
    y = (x1 - context.shown()) / turn(law.schedule, context.t).sin
    real = hidden_law(law, context.x_t, t).sample(n, generator(1))
    for a, b in ((y, real), (y**2, real**2)):
        assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * ((a.var(0) + b.var(0)) / n).sqrt()).all()
