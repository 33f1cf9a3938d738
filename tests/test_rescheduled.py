"""Rescheduled: a law on one path, evaluated on another, equals the law built on that path."""

import itertools
import math

import pytest
import torch
from ball import Ball
from chance import normal
from one_gaussian import MEAN, OneGaussian

from steer import counting
from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.guidance import ClassifierFree
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import MapJump, Posterior
from steer.maps.rescheduled import Rescheduled
from steer.networks import ClassCondition, Mlp
from steer.samplers import Jump, Ode

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving(), VariancePreserving(3.0, 3.0)]
PAIRS = list(itertools.product(SCHEDULES, SCHEDULES))
ENDS = torch.tensor([0.0, 1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9, 1.0], dtype=torch.float64)
TIMES = torch.cat((ENDS, torch.linspace(0.01, 0.99, 21, dtype=torch.float64)))

every_pair = pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda s: repr(s))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def mixture(schedule, steps=32):
    return GaussianMixture(
        [[1.0, -2.0], [0.5, 1.0], [-2.0, 0.0]],
        [0.3, 0.7, 1.1],
        [1.0, 2.0, 3.0],
        schedule,
        steps=steps,
    )


def covered(old, new, times=TIMES):
    """The times of the new path whose signal to noise the old path has."""
    first = old(0.0)
    at = new(times)
    return times[at.alpha * first.sigma >= first.alpha * at.sigma * (1 - 1e-9)]


def first_covered(old, new):
    start = old(0.0)
    return max(0.0, float(new.time_at(start.alpha, start.sigma))) if start.alpha > 0 else 0.0


# The same law


@every_pair
def test_velocity_denoiser_and_score_are_those_of_the_law_on_the_new_path(old, new):
    t = covered(old, new)
    x = normal(len(t), 2)
    exact = mixture(new)
    found = Rescheduled(mixture(old), new)
    close(found.velocity(x, t), exact.velocity(x, t), 1e-9)
    close(found.denoise(x, t), exact.denoise(x, t), 1e-9)
    for a, b in zip(found.endpoints(x, t), exact.endpoints(x, t), strict=True):
        close(a, b, 1e-9)
    inside = t < 1 - 1e-6  # the score is n / sigma, and n rounds
    close(found.score(x[inside], t[inside]), exact.score(x[inside], t[inside]), 1e-8)


@every_pair
def test_jumps_are_those_of_the_law_on_the_new_path(old, new):
    """One Gaussian, whose map is known: between all pairs of times, backwards too."""
    times = covered(old, new)
    s, t = torch.cartesian_prod(times, times).T
    x = normal(len(s), 2)
    exact = OneGaussian(new)
    found = Rescheduled(OneGaussian(old), new)
    close(found(x, s, t), exact(x, s, t), 1e-9)
    close(found.lookahead(x, s), exact.lookahead(x, s), 1e-9)


@pytest.mark.parametrize(
    ("old", "new"), list(itertools.permutations(SCHEDULES[:3], 2)), ids=lambda s: repr(s)
)
def test_jumps_of_a_mixture_agree_up_to_the_oracles_own_error(old, new):
    """Both integrate, on different clocks, by Runge-Kutta: the difference is of order steps^-4."""
    x = normal(16, 2)
    s = first_covered(old, new)
    exact = mixture(new, 128)(x, s, 1.0)
    errors = [
        (Rescheduled(mixture(old, n), new)(x, s, 1.0) - exact).norm(dim=1).median()
        for n in (16, 32)
    ]
    assert errors[1] < 1e-4
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.7)


@every_pair
def test_the_posterior_is_that_of_the_law_on_the_new_path(old, new):
    t = covered(old, new)
    x = normal(len(t), 2)
    chance = torch.Generator
    found = Posterior(6)(Rescheduled(mixture(old), new), x, t, None, chance().manual_seed(1))
    exact = Posterior(6)(mixture(new), x, t, None, chance().manual_seed(1))
    close(found.x1, exact.x1, 1e-9)
    close(found.log_w, exact.log_w, 1e-9)


def test_a_model_without_a_posterior_is_named():
    model = Rescheduled(ResidualMap(Mlp(2, 8, 1), Linear()).double(), Trigonometric())
    with pytest.raises(ValueError, match="ResidualMap cannot draw"):
        Posterior(4)(model, normal(3, 2), 0.5, None, torch.Generator())


# The laws of a map


@every_pair
def test_there_and_back_is_the_model(old, new):
    t = covered(new, old, covered(old, new))
    x = normal(len(t), 2)
    law = OneGaussian(old)
    back = Rescheduled(Rescheduled(law, new), old)
    close(back.velocity(x, t), law.velocity(x, t), 1e-9)
    close(back(x, t, t.flip(0)), law(x, t, t.flip(0)), 1e-9)


@every_pair
def test_identity_semigroup_and_tangent(old, new):
    """At both ends too. Times before the model's start are left to their own test."""
    t = covered(old, new)
    model = Rescheduled(OneGaussian(old), new)
    x = normal(len(t), 2)
    middle = t.flip(0)
    close(model(x, t, t), x)
    close(model(model(x, t, middle), middle, 1.0), model(x, t, 1.0), 1e-9)
    moved, tangent = torch.func.jvp(lambda r: model(x, t, r), (t,), (torch.ones_like(t),))
    start = (
        t - first_covered(old, new)
    ).abs() < 1e-6  # before it the clock is held: a one-sided derivative
    close(tangent[~start], model.velocity(x, t)[~start], 1e-7)
    close(moved, x)


@every_pair
def test_derivatives_are_finite_everywhere(old, new):
    model = Rescheduled(mixture(old, 4), new)
    x = normal(len(TIMES), 2).requires_grad_()
    t = TIMES.clone().requires_grad_()
    for output in (model.velocity(x, t), model.denoise(x, t), model(x, t, 1.0), model(x, 0.5, t)):
        gradients = torch.autograd.grad(output.square().sum(), (x, t), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)
    _, tangent = torch.func.jvp(
        model.velocity, (x.detach(), t.detach()), (normal(len(t), 2, seed=1), torch.ones_like(t))
    )
    assert tangent.isfinite().all()


@every_pair
def test_gradients_in_place_and_time_are_those_of_the_law_on_the_new_path(old, new):
    t = covered(old, new, torch.linspace(0.3, 1.0, 8, dtype=torch.float64))
    x = normal(len(t), 2)
    way = normal(len(t), 2, seed=1)
    found, exact = (
        torch.func.jvp(model.endpoints, (x, t), (way, torch.ones_like(t)))[1]
        for model in (Rescheduled(mixture(old), new), mixture(new))
    )
    close(found.clean, exact.clean, 1e-8)
    close(found.noise, exact.noise, 1e-8)


# Before the model begins


def test_before_its_start_the_model_answers_as_at_its_start():
    """Below alpha_0 = .0066 a variance-preserving model errs by O(alpha_0)."""
    old = VariancePreserving()
    new = Linear()
    model = Rescheduled(OneGaussian(old), new)
    alpha_0 = float(old(0.0).alpha)
    r = torch.linspace(0, first_covered(old, new), 9, dtype=torch.float64)
    x = normal(9, 2)
    close(model(x, 0.0, 1.0), model.flow_map(x, 0.0, 1.0), 1e-9)  # the samples it always drew
    error = (model.velocity(x, r) - OneGaussian(new).velocity(x, r)).norm(dim=1)
    assert error[:-1].min() > 0.01 * alpha_0
    assert error.max() < 3 * alpha_0 * MEAN.norm()
    assert error[-1] < 1e-9
    close(model(model(x, r, r.flip(0)), r.flip(0), 1.0), model(x, r, 1.0), 1e-9)


@every_pair
def test_the_model_is_never_asked_outside_its_own_times(old, new):
    model = Rescheduled(OneGaussian(old), new)
    model(normal(len(TIMES), 2), TIMES, 1.0)
    asked = torch.cat(model.flow_map.asked)
    assert asked.isfinite().all()
    assert asked.min() > -1e-6
    assert asked.max() <= 1
    assert (asked[len(TIMES) :] == 1).all()  # exactly, for maps that jump to the data only


# What passes through


def test_conditions_costs_and_claims_pass_through():
    law = mixture(Linear())
    x = normal(5, 2)
    cond = torch.tensor([0, 2, -1, 1, 0])
    model = Rescheduled(law, Trigonometric())
    exact = mixture(Trigonometric())
    close(model.velocity(x, 0.3, cond), exact.velocity(x, 0.3, cond), 1e-9)
    close(model(x, 0.3, 0.5, cond), exact(x, 0.3, 0.5, cond), 1e-4)
    guesses = [
        m.posterior_guesses(x, 0.3, 3, torch.Generator().manual_seed(2), cond)
        for m in (model, exact)
    ]
    close(guesses[0].log_w.exp(), guesses[1].log_w.exp(), 1e-9)
    for ask in (
        lambda: model(x, 0.2, 0.9),
        lambda: model.velocity(x, 0.2),
        lambda: model.denoise(x, 0.2),
    ):
        with counting.count() as tally:
            ask()
        assert tally.network_forward == 5
    with counting.count() as tally:
        model(x.requires_grad_(), 0.2, 0.9).sum().backward()
    assert tally.network_backward == 5
    assert MapJump().follows(model)
    assert not MapJump().follows(Rescheduled(ClassifierFree(law), Trigonometric()))


def test_samplers_max_batch_and_batch_mates_do_not_notice():
    model = Rescheduled(OneGaussian(VariancePreserving()), Linear())
    x = normal(len(TIMES), 2)
    x0 = normal(2, 5, 2)
    close(
        model(x, TIMES, 1.0), torch.cat([model(x[i : i + 1], TIMES[i], 1.0) for i in range(len(x))])
    )
    model = Rescheduled(OneGaussian(Linear()), Trigonometric())
    for sampler in (Ode, Jump):
        whole, parts = (sampler(8, max_batch=batch)(model, x0).x for batch in (None, 3))
        close(whole, parts)
        close(whole, sampler(8)(OneGaussian(Trigonometric()), x0).x, 1e-9)


def test_parameters_are_those_of_the_model_and_images_are_welcome():
    network = Mlp(2, 8, 1, ClassCondition(3, 8))
    model = Rescheduled(ResidualMap(network, Linear()), Trigonometric())
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
    x = normal(4, 3, 5, 5)
    ball = Rescheduled(Ball(), Trigonometric())
    close(ball(x, 0.0, 1.0), x)  # on this path standard normal data stay where they are
    close(ball.velocity(x, torch.linspace(0, 1, 4)), 0 * x)


# Precision


@pytest.mark.parametrize(
    ("old", "new"), PAIRS[:3] + PAIRS[4:7] + PAIRS[8:11], ids=lambda s: repr(s)
)
def test_single_precision_is_good_to_five_digits(old, new):
    t = covered(old, new, torch.linspace(0.02, 0.98, 25, dtype=torch.float64))
    x = normal(len(t), 2)
    model = Rescheduled(OneGaussian(old), new)
    single = Rescheduled(OneGaussian(old).float(), new)
    for a, b in (
        (single(x.float(), t.float(), 1.0), model(x, t, 1.0)),
        (single.velocity(x.float(), t.float()), model.velocity(x, t)),
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_half_and_times_do_not():
    model = Rescheduled(OneGaussian(Linear()), Trigonometric())
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    model(x, 0.5, 1 - 2.0**-12)
    assert all(t.dtype == torch.float32 for t in model.flow_map.asked)
    assert (model.flow_map.asked[1] < 1).all()
    assert Rescheduled(Ball(), Trigonometric())(x, 0.5, 0.75).dtype == torch.bfloat16
