"""Schedules against autograd, and conversions against an exactly known law."""

import pytest
import torch

from steer.analytic import GaussianMixture
from steer.interpolant import (
    Endpoints,
    Linear,
    Trigonometric,
    VariancePreserving,
    batch_time,
    expand,
)

SCHEDULES = [
    Linear(),
    Trigonometric(),
    VariancePreserving(),
    VariancePreserving(beta_min=3.0, beta_max=3.0),
]
ENDS = torch.tensor([0.0, 1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9, 1.0], dtype=torch.float64)
INSIDE = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
TIMES = torch.cat((ENDS, INSIDE))

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(schedule):
    """A mixture along the schedule, times, and a point of its path at each."""
    law = GaussianMixture(
        [[1.0, -2.0], [0.5, 1.0], [-2.0, 0.0]], [0.3, 0.7, 1.1], [1.0, 2.0, 3.0], schedule
    )
    return law, INSIDE, normal(len(INSIDE), 2)


# Coefficients


@every_schedule
def test_derivatives_are_those_of_autograd(schedule):
    t = TIMES.clone().requires_grad_()
    alpha, sigma, d_alpha, d_sigma = schedule(t)
    close(torch.autograd.grad(alpha.sum(), t, retain_graph=True)[0], d_alpha.detach(), 1e-9)
    close(torch.autograd.grad(sigma.sum(), t)[0], d_sigma.detach(), 1e-9)


@every_schedule
def test_derivatives_are_finite_differences_up_to_both_ends(schedule):
    h = 1e-5
    for at, stencil in (
        (INSIDE, (-1, 0, 1)),
        (torch.zeros_like(INSIDE), (0, 1, 2)),
        (1 + 0 * INSIDE, (-2, -1, 0)),
    ):
        weights = {
            (-1, 0, 1): (-0.5, 0, 0.5),
            (0, 1, 2): (-1.5, 2, -0.5),
            (-2, -1, 0): (0.5, -2, 1.5),
        }[stencil]
        values = [schedule(at + k * h) for k in stencil]
        for name, derivative in (("alpha", "d_alpha"), ("sigma", "d_sigma")):
            slope = (
                sum(w * getattr(value, name) for w, value in zip(weights, values, strict=True)) / h
            )
            close(slope, getattr(schedule(at), derivative), 1e-6)


@every_schedule
def test_from_noise_to_data(schedule):
    alpha, sigma, d_alpha, d_sigma = schedule(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert alpha[-1] == 1
    assert sigma[-1] == 0
    assert (alpha.diff() > 0).all()
    assert (sigma.diff() < 0).all()
    assert (alpha * d_sigma - d_alpha * sigma < 0).all()  # what from_velocity divides by


@every_schedule
def test_single_precision_agrees_with_double(schedule):
    for single, double in zip(
        schedule(TIMES.float()), schedule(TIMES.float().double()), strict=True
    ):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=repr)
def test_variance_is_preserved(schedule):
    alpha, sigma, _, _ = schedule(TIMES)
    close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_variance_preserving_is_the_diffusion_on_a_squared_clock():
    schedule = VariancePreserving(0.1, 20.0)
    tau = (1 - TIMES) ** 2
    integral = 0.1 * tau + (20.0 - 0.1) * tau**2 / 2  # of beta from 0 to tau
    close(schedule(TIMES).alpha, torch.exp(-integral / 2))
    close(schedule(0.0).alpha, torch.tensor(0.0066, dtype=torch.float64), 3e-5)


@pytest.mark.parametrize("betas", [(0.0, 20.0), (20.0, 0.1), (-1.0, 1.0), (float("nan"), 1.0)])
def test_variance_preserving_wants_betas_in_order(betas):
    with pytest.raises(ValueError, match="needs 0 < beta_min <= beta_max"):
        VariancePreserving(*betas)


def test_schedules_compare_by_value():
    assert VariancePreserving(0.1, 20) == VariancePreserving(0.1, 20)
    assert (
        len({Linear(), Linear(), Trigonometric(), VariancePreserving(), VariancePreserving(0.2)})
        == 4
    )
    assert repr(Linear()) == "steer.Linear()"


# The path


@every_schedule
def test_path_runs_from_noise_to_data_at_its_velocity(schedule):
    x0 = normal(39, 3)
    x1 = normal(39, 3, seed=1)
    t = TIMES.clone()
    close(schedule.interpolate(x0, x1, 1.0), x1)
    close(
        schedule.interpolate(x0, x1, 0.0),
        x0 + schedule(0.0).alpha * x1 + (schedule(0.0).sigma - 1) * x0,
    )
    x, v = torch.func.jvp(lambda t: schedule.interpolate(x0, x1, t), (t,), (torch.ones_like(t),))
    close(v, schedule.path_velocity(x0, x1, t), 1e-9)
    close(x[5], schedule.interpolate(x0[5:6], x1[5:6], float(t[5]))[0])


# Conversions


@every_schedule
def test_one_pair_has_four_faces(schedule):
    """Each prediction gives back any pair: an identity of linear algebra."""
    t = INSIDE
    clean = normal(33, 2)
    noise = normal(33, 2, seed=1)
    pair = Endpoints(clean, noise)
    x = schedule.interpolate(noise, clean, t)
    back = (
        schedule.from_velocity(schedule.velocity(pair, x, t), x, t),
        schedule.from_clean(clean, x, t),
        schedule.from_noise(noise, x, t),
        schedule.from_score(schedule.score(pair, x, t), x, t),
    )
    for found in back:
        close(found.clean, clean, 1e-9)
        close(found.noise, noise, 1e-9)


@every_schedule
def test_conversions_are_those_of_a_known_law(schedule):
    law, t, x = points(schedule)
    v = law.velocity(x, t)
    clean = law.denoise(x, t)
    noise = law.endpoints(x, t).noise
    score = law.score(x, t)
    close(score, torch.func.grad(lambda x: law.log_prob(x, t).sum())(x), 1e-9)
    for pair in (
        schedule.from_velocity(v, x, t),
        schedule.from_clean(clean, x, t),
        schedule.from_noise(noise, x, t),
        schedule.from_score(score, x, t),
    ):
        close(pair.clean, clean, 1e-8)
        close(pair.noise, noise, 1e-8)
        close(schedule.velocity(pair, x, t), v, 1e-8)
        close(schedule.score(pair, x, t), score, 1e-8)


@every_schedule
def test_velocity_is_a_drift_and_a_multiple_of_the_score(schedule):
    law, t, x = points(schedule)
    alpha, _, d_alpha, _ = schedule(t)
    drift = (d_alpha / alpha)[:, None] * x
    close(drift + schedule.c_t(t)[:, None] * law.score(x, t), law.velocity(x, t), 1e-9)


@every_schedule
def test_the_velocity_is_enough_at_both_ends(schedule):
    x0, x1 = normal(5, 2), normal(5, 2, seed=1)
    for t in (0.0, 1.0):
        x = schedule.interpolate(x0, x1, t)
        pair = schedule.from_velocity(schedule.path_velocity(x0, x1, t), x, t)
        close(pair.clean, x1, 1e-9)
        close(pair.noise, x0, 1e-9)


@every_schedule
def test_the_score_is_enough_at_the_data(schedule):
    x = normal(5, 2)
    score = normal(5, 2, seed=1)
    pair = schedule.from_score(score, x, 1.0)
    close(pair.clean, x)
    close(pair.noise, torch.zeros_like(x))


@every_schedule
def test_what_an_end_does_not_tell_is_refused_in_one_line(schedule):
    x = normal(4, 2)
    t = torch.tensor([0.5, 0.5, 1.0, 0.5])  # one such sample is enough
    for ask in (schedule.from_clean, lambda v, x, t: schedule.score(Endpoints(v, v), x, t)):
        with pytest.raises(ValueError, match="at t = 1, where sigma = 0") as error:
            ask(x, x, t)
        assert "\n" not in str(error.value)
    if schedule(0.0).alpha == 0:
        for ask in (schedule.from_noise, schedule.from_score):
            with pytest.raises(ValueError, match="at t = 0, where alpha = 0"):
                ask(x, x, 1 - t[2:3])


def test_c_t_on_the_straight_path():
    close(Linear().c_t(INSIDE), (1 - INSIDE) / INSIDE)
    assert Linear().c_t(0.0) == torch.inf
    assert Linear().c_t(1.0) == 0


def test_inside_moves_only_the_ends():
    close(Linear().inside(INSIDE), INSIDE)
    assert Linear().inside(torch.tensor([0.0, 1.0]), margin=0.25).tolist() == [0.25, 0.75]


# Times


def test_a_time_is_a_number_or_one_per_sample():
    x = torch.zeros(3, 2)
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.full((3,), 0.5)):
        assert batch_time(t, x).tolist() == [0.5] * 3
    for shape in [(2,), (3, 1), (1, 3)]:
        with pytest.raises(ValueError, match=r"a time is a number or has shape \(3,\)"):
            batch_time(torch.zeros(shape), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_times_keep_single_precision_whatever_x_has(dtype):
    x = torch.zeros(2, 3, 4, dtype=dtype)
    t = 1 - 2.0**-20
    times = batch_time(t, x)
    assert times.dtype == torch.promote_types(dtype, torch.float32)
    assert (times == t).all()
    assert expand(times, x).shape == (2, 1, 1)
    assert Linear().at(t, x).sigma.dtype == dtype
    assert (Linear().at(t, x).sigma == 2.0**-20).all()  # 1 - t before rounding, not after


@every_schedule
def test_samples_do_not_see_each_other(schedule):
    law, t, x = points(schedule)
    v = law.velocity(x, t)
    together = schedule.from_velocity(v, x, t)
    alone = [schedule.from_velocity(v[i : i + 1], x[i : i + 1], t[i]) for i in range(len(x))]
    close(together.clean, torch.cat([pair.clean for pair in alone]))
    close(together.noise, torch.cat([pair.noise for pair in alone]))


# Time from signal to noise


@every_schedule
def test_time_at_finds_the_time_of_any_pair_in_the_same_ratio(schedule):
    alpha, sigma, _, _ = schedule(INSIDE)
    for factor in (1e-3, 1.0, 7.0):
        close(schedule.time_at(factor * alpha, factor * sigma), INSIDE, 1e-9)
    close(schedule.time_at(torch.ones(1), torch.zeros(1)), torch.ones(1))


@every_schedule
def test_time_at_is_the_inverse_clock_derivative_and_all_up_to_the_data(schedule):
    t = torch.cat((INSIDE, torch.ones(1, dtype=torch.float64))).requires_grad_()
    alpha, sigma, _, _ = schedule(t)
    (slope,) = torch.autograd.grad(schedule.time_at(alpha, sigma).sum(), t)
    close(slope, torch.ones_like(slope), 1e-9)
