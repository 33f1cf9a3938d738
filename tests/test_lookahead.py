"""Look-aheads against what is known of a Gaussian mixture: where the flow ends, the posterior mean,
the value.
"""

import inspect

import pytest
import torch
from ball import Ball

from rewards import Quadratic
from steer import lookahead
from steer.analytic import GaussianMixture, ring
from steer.flow_map import OdeMap
from steer.guidance import ClassifierFree
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump, Posterior, ShortOde
from steer.solvers import Euler, Heun, Rk4
from steer.tilt import Tilt
from steer.value import Value

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
CLASSES = [getattr(lookahead, name) for name in lookahead.__all__]
EVERY = [
    cls()
    for cls in CLASSES
    if inspect.isclass(cls) and issubclass(cls, Lookahead) and not inspect.isabstract(cls)
]


def world(schedule=None, steps=32):
    stds = torch.tensor([[0.5, 0.8], [0.9, 0.6]])
    return GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], stds, [0.6, 0.4], schedule, steps=steps)


def points(n=6, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def jumps(flow_map, x, t, ahead):
    return ahead(flow_map, x, t, None, seeded()).x1[0]


# --- what all owe -------------------------------------------------------------------------------
@pytest.mark.parametrize("ahead", EVERY, ids=lambda a: type(a).__name__)
def test_guesses_have_weights_that_sum_to_one(ahead):
    guesses = ahead(world(steps=4), points(), 0.5, None, seeded())
    assert guesses.x1.shape == (*guesses.log_w.shape, 2)
    assert torch.allclose(guesses.log_w.exp().sum(0), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("ahead", EVERY, ids=lambda a: type(a).__name__)
def test_at_the_end_the_guess_is_the_point(ahead):
    guesses, x = ahead(world(steps=4), points(), 1.0, None, seeded()), points()
    assert torch.allclose(guesses.x1, x.expand_as(guesses.x1), rtol=1e-12)


@pytest.mark.parametrize("ahead", EVERY, ids=lambda a: type(a).__name__)
def test_the_velocity_that_comes_along_is_the_models_and_detached(ahead):
    flow_map, x = world(steps=4), points().requires_grad_()
    guesses, velocity = ahead.with_velocity(flow_map, x, 0.4, None, seeded())
    alone = ahead(flow_map, x, 0.4, None, seeded())
    assert not velocity.requires_grad
    assert torch.allclose(velocity, flow_map.velocity(x, 0.4).detach(), rtol=1e-10)
    assert torch.allclose(guesses.x1, alone.x1, rtol=1e-10)
    assert guesses.x1.requires_grad


@pytest.mark.parametrize("ahead", EVERY, ids=lambda a: type(a).__name__)
def test_those_that_draw_say_so(ahead):
    first, second = (ahead(Ball(), points(), 0.5, None, seeded(seed)).x1 for seed in (1, 2))
    assert torch.equal(first, second) != ahead.random


@pytest.mark.parametrize(
    "ahead", [MapJump(), ShortOde(3), Denoiser()], ids=lambda a: type(a).__name__
)
def test_derivatives_in_place_and_time_are_those_of_finite_differences(ahead):
    flow_map, x, t, h = world(steps=4), points(), torch.full((6,), 0.4, dtype=torch.float64), 1e-5
    direction = (points(seed=1), torch.ones_like(t))
    ahead_and_back = [
        jumps(flow_map, x + e * direction[0], t + e * direction[1], ahead) for e in (h, -h)
    ]
    numeric = (ahead_and_back[0] - ahead_and_back[1]) / (2 * h)
    _, exact = torch.func.jvp(lambda x, t: jumps(flow_map, x, t, ahead), (x, t), direction)
    assert torch.allclose(exact, numeric, atol=1e-7)


# --- the map's jump -----------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_jump_does_not_change_along_the_flow(schedule, t):
    """(d_t + b . grad) X_{t,1} = 0, up to the oracle's solver."""
    flow_map, x, times = (
        world(schedule, steps=24),
        points(),
        torch.full((6,), t, dtype=torch.float64),
    )
    along = (flow_map.velocity(x, times), torch.ones_like(times))
    _, change = torch.func.jvp(lambda x, t: jumps(flow_map, x, t, MapJump()), (x, times), along)
    assert change.abs().max() < 1e-3 * along[0].abs().max()


def test_points_of_one_flow_line_land_together():
    flow_map, x = world(), points()
    landing = jumps(flow_map, x, 0.0, MapJump())
    assert torch.allclose(
        jumps(flow_map, flow_map(x, 0.0, 0.6), 0.6, MapJump()), landing, atol=1e-4
    )


def test_only_a_trusted_jump_claims_to_follow_the_flow():
    model = ring()
    assert MapJump().follows(model)
    assert not MapJump().follows(
        ClassifierFree(model)
    )  # a mixture of jumps is no jump of the mixed velocity
    assert not MapJump(assume_consistent=False).follows(model)
    assert not any(ahead.follows(model) for ahead in EVERY if not isinstance(ahead, MapJump))


# --- the denoiser -------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_denoiser_is_the_posterior_mean(schedule):
    flow_map, x, n = world(schedule), points(), 20_000
    draws = flow_map.posterior_sample(x, 0.5, n, seeded())
    guess = jumps(flow_map, x, 0.5, Denoiser())
    assert ((guess - draws.mean(1)).abs() < 4.5 * draws.std(1) / n**0.5).all()


def test_the_denoiser_is_one_euler_step_to_the_end():
    """On the straight path D = x + (1 - t) b."""
    flow_map, x = world(), points()
    assert torch.allclose(
        jumps(flow_map, x, 0.3, Denoiser()),
        jumps(flow_map, x, 0.3, ShortOde(1, Euler())),
        rtol=1e-10,
    )


# --- a short ODE --------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", [Euler(), Heun(), Rk4()], ids=lambda s: type(s).__name__)
def test_a_short_ode_tends_to_the_jump_with_the_order_of_its_solver(solver):
    flow_map, x = world(), points(32)
    exact = jumps(world(steps=128), x, 0.3, MapJump())
    errors = [
        (jumps(flow_map, x, 0.3, ShortOde(steps, solver)) - exact).norm() for steps in (16, 32)
    ]
    order = torch.log2(errors[0] / errors[1])
    assert abs(order - solver.order) < 0.5


# --- draws from the posterior -------------------------------------------------------------------
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_posterior_draws_give_the_value_and_its_gradient(t):
    """Over independent estimates; the log of a mean is biased by half its variance, here far below
    it.
    """
    flow_map, reward, copies = world(), Quadratic([1.0, 0.5], 1.5), 64
    x = points(3)
    exact = flow_map.value(reward, x.requires_grad_(), t)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), x)
    many = x.detach().repeat_interleave(copies, dim=0).requires_grad_()
    estimates = Value(Tilt(reward), Posterior(1000))(flow_map, many, t, None, seeded())
    (gradients,) = torch.autograd.grad(estimates.sum(), many)
    for exactly, noisy in (
        (exact.detach()[:, None], estimates.detach()[:, None]),
        (exact_gradient, gradients),
    ):
        noisy = noisy.view(3, copies, -1)
        assert ((noisy.mean(1) - exactly).abs() < 4.5 * noisy.std(1) / copies**0.5 + 1e-3).all()


def test_deterministic_guesses_are_not_the_value():
    """The trap: one guess, however sharp, is not the posterior; its value misses by more than any
    sampling error.
    """
    flow_map, reward, x = world(), Quadratic([1.0, 0.5], 1.5), points(16)
    exact = flow_map.value(reward, x, 0.3)
    for ahead in (MapJump(), Denoiser(), Identity()):
        assert (Value(Tilt(reward), ahead)(flow_map, x, 0.3) - exact).abs().mean() > 0.1


def test_a_map_without_a_posterior_is_told_what_to_use():
    with pytest.raises(ValueError, match=r"OdeMap cannot draw.*MapJump\(\) or Denoiser\(\)"):
        Posterior(2)(OdeMap(Ball(), Linear(), 2), points(), 0.5)


@pytest.mark.parametrize("build", [lambda: ShortOde(0), lambda: Posterior(0)])
def test_at_least_one_step_or_draw(build):
    with pytest.raises(ValueError, match="at least one"):
        build()
