"""Plug and play on normal data, where each step is linear: mean and covariance of the estimate,
step by step in closed form.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from ball import Ball
from one_gaussian import STD, OneGaussian
from zoo import noise, seeded

from rewards import JpegSize, Measurement
from rewards import Linear as LinearReward
from rewards.operators import CompressedSensing
from steer.analytic import GaussianMixture
from steer.guidance import Unconditional
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Denoiser, FlowMapDenoiser, Guesses, Lookahead, MapJump, Posterior
from steer.samplers import Decaying, Matched, PlugAndPlay
from steer.samplers.plug_and_play import StepSize
from steer.tilt import NonFiniteReward, Tilt

MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
VARIANCES = torch.tensor([0.5, 1.0, 1.8], dtype=torch.float64)
AXES = torch.linalg.qr(torch.randn(3, 3, generator=seeded(5), dtype=torch.float64)).Q
COVARIANCE = AXES @ VARIANCES.diag() @ AXES.T
LEVEL = 0.8
A = CompressedSensing.orthonormal(2, (3,), seeded(6))
REWARD = Measurement(A, torch.tensor([[1.5, -0.7]], dtype=torch.float64), LEVEL)
PRECISION = A.matrix.T @ A.matrix / LEVEL**2
GRADIENT = (
    (REWARD.y[0] - A.matrix @ MEAN) @ A.matrix
) / LEVEL**2  # of the reward, at the prior's mean


def world(schedule=None):
    return GaussianMixture.from_covariances(
        MEAN[None], COVARIANCE[None], schedule=schedule, steps=16
    )


def gain(schedule, t, reach):
    """K_t of a denoiser mean + K_t (x - alpha mean), by its eigenvalues: the line through x_t and
    X_{t,r}, at its clean end.
    """
    (a, s, da, ds), (b, q, _, _) = schedule(t), schedule(t + reach * (1 - t))
    at_t, at_r = a**2 * VARIANCES + s**2, b**2 * VARIANCES + q**2
    if reach == 0:  # the limit
        slope = (a * da * VARIANCES + s * ds) / at_t
        values = (s * slope - ds) / (da * s - a * ds)
    else:
        values = (s * torch.sqrt(at_r / at_t) - q) / (b * s - a * q)
    return AXES @ values.diag() @ AXES.T


def closed_form(schedule, steps, reach, step_size, draws, prox):
    """Mean and covariance of the estimate after the last step."""
    eye = torch.eye(3, dtype=torch.float64)
    k = gain(schedule, 0.0, reach)
    away, spread = -k @ (schedule(0.0).alpha * MEAN), k @ k.T
    for i in range(1, steps):
        t = i / steps
        gamma, (a, s, _, _), k = step_size(schedule, t), schedule(t), gain(schedule, t, reach)
        nearer = torch.linalg.inv(eye + gamma * PRECISION) if prox else eye - gamma * PRECISION
        pull = nearer @ GRADIENT if prox else GRADIENT
        step = a * k @ nearer
        away = step @ away + a * gamma * k @ pull
        spread = step @ spread @ step.T + s**2 / draws * k @ k.T
    return MEAN + away, spread


@pytest.mark.parametrize(
    ("schedule", "lookahead", "reach", "step_size", "draws", "prox"),
    [
        (Linear(), Denoiser(), 0.0, Decaying(LEVEL**2, 0.5), 1, False),
        (Linear(), Denoiser(), 0.0, Matched(LEVEL**2), 3, False),
        (Linear(), Denoiser(), 0.0, Matched(), 1, True),
        (Linear(), MapJump(), 1.0, Decaying(0.3), 1, False),
        (Linear(), FlowMapDenoiser(0.4), 0.4, Matched(), 2, True),
        (Trigonometric(), FlowMapDenoiser(0.4), 0.4, Decaying(0.3), 1, False),
        (VariancePreserving(), Denoiser(), 0.0, Matched(LEVEL**2), 1, False),
    ],
)
def test_mean_and_covariance_are_the_closed_forms(
    schedule, lookahead, reach, step_size, draws, prox
):
    n, steps = 20_000, 12
    sampler = PlugAndPlay(steps, lookahead, step_size, draws, prox=REWARD.prox if prox else None)
    x = sampler(world(schedule), noise(1, n, 3), Tilt(REWARD), generator=seeded()).x[0]
    mean, spread = closed_form(schedule, steps, reach, step_size, draws, prox)
    assert ((x.mean(0) - mean).abs() < 4 * torch.sqrt(spread.diagonal() / n) + 1e-5).all()
    error = torch.sqrt((spread.diagonal()[:, None] * spread.diagonal() + spread**2) / n)
    assert ((x.T.cov() - spread).abs() < 4.5 * error + 1e-5).all()


def test_step_sizes_by_hand():
    assert Decaying(0.2, 2.0)(Linear(), 0.75) == pytest.approx(0.2 / 16)
    assert Decaying(0.2, 0.0)(Linear(), 0.75) == 0.2
    assert Matched()(Linear(), 0.75) == pytest.approx(1 / 9)
    assert Matched(0.05)(Linear(), 0.75) == 0.05
    assert Matched()(Trigonometric(), 0.5) == pytest.approx(1.0)


@dataclass(frozen=True)
class Times(StepSize):
    """A multiple of the matched step size."""

    factor: float

    def __call__(self, schedule, t):
        return min(self.factor * Matched()(schedule, t), LEVEL**2)


@pytest.mark.parametrize("factor", [pytest.param(0.5, marks=pytest.mark.slow), 1.0, 2.0])
@pytest.mark.parametrize(
    "schedule", [Linear(), pytest.param(Trigonometric(), marks=pytest.mark.slow)], ids=repr
)
def test_it_comes_to_rest_where_the_step_size_says(schedule, factor):
    """(C^-1 / factor + H) (x - mean) = grad r(mean): the posterior mean for the matched step size,
    and for no other.
    """
    precision = torch.linalg.inv(COVARIANCE) / factor + PRECISION
    rest = MEAN + torch.linalg.solve(precision, GRADIENT)
    mean, _ = closed_form(schedule, 400, 0.0, Times(factor), 1, prox=False)
    torch.testing.assert_close(mean, rest, rtol=0, atol=1e-4)
    posterior_mean = MEAN + torch.linalg.solve(torch.linalg.inv(COVARIANCE) + PRECISION, GRADIENT)
    assert ((rest - posterior_mean).norm() > 0.1) == (factor != 1)
    x = PlugAndPlay(400, step_size=Times(factor), draws=4)(
        world(schedule), noise(1, 2000, 3), Tilt(REWARD), generator=seeded()
    ).x[0]
    assert ((x.mean(0) - rest).abs() < 4 * x.std(0) / 2000**0.5 + 1e-4).all()


def test_proximal_steps_of_any_length_come_to_the_posterior_mean():
    """Here unbounded: the first is all but infinite. The error they leave falls with gamma toward t
    = 1.
    """
    posterior_mean = MEAN + torch.linalg.solve(torch.linalg.inv(COVARIANCE) + PRECISION, GRADIENT)
    errors = [
        (closed_form(Linear(), n, 0.0, Matched(), 1, prox=True)[0] - posterior_mean).norm()
        for n in (100, 400, 1600)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_the_scale_of_the_tilt_scales_the_step():
    """Each prompt's own: twice the reward is the reward with twice gamma, for gradient and proximal
    steps.
    """
    x0, scales = noise(2, 5, 3), torch.tensor([2.0, 0.5], dtype=torch.float64)
    for prox in (None, REWARD.prox):
        both = PlugAndPlay(6, step_size=Decaying(0.1), prox=prox)(
            world(), x0, Tilt(REWARD, scales), None, seeded()
        )
        for i, scale in enumerate((2.0, 0.5)):
            sampler = PlugAndPlay(6, step_size=Decaying(0.1 * scale), prox=prox)
            alone = sampler(world(), x0, Tilt(REWARD), None, seeded())
            torch.testing.assert_close(both.x[i], alone.x[i])


def test_every_prompt_may_have_its_own_measurement():
    y = torch.tensor([[1.5, -0.7], [-2.0, 0.4]], dtype=torch.float64)
    many, model = Measurement(A, y, LEVEL), Unconditional(world())
    for prox in (False, True):
        sampler = lambda r, p=prox: PlugAndPlay(6, prox=r.prox if p else None, max_batch=4)  # noqa: E731
        both = sampler(many)(model, noise(2, 3, 3), Tilt(many), torch.arange(2), seeded())
        for i in range(2):
            one = Measurement(A, y[i : i + 1], LEVEL)
            alone = sampler(one)(model, noise(2, 3, 3), Tilt(one), torch.arange(2), seeded())
            torch.testing.assert_close(both.x[i], alone.x[i])


class Astride(Lookahead):
    """Two guesses on either side of the denoiser, weighted so that it is their mean."""

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        clean = flow_map.denoise(x, t, cond)
        log_w = torch.tensor([0.25, 0.75], dtype=x.dtype).log()
        return Guesses(torch.stack((clean - 3, clean + 1)), log_w[:, None].expand(2, len(x)))


def test_several_guesses_are_averaged_by_their_weights():
    x0, tilt = noise(2, 4, 3), Tilt(REWARD)
    mean = PlugAndPlay(3, Denoiser())(world(), x0, tilt, None, seeded()).x
    torch.testing.assert_close(
        PlugAndPlay(3, Astride(), max_batch=3)(world(), x0, tilt, None, seeded()).x, mean
    )


def test_guesses_that_draw_are_drawn_for_their_own_prompt():
    x0, tilt = noise(2, 4, 3), Tilt(REWARD)
    both = PlugAndPlay(3, Posterior(5))(world(), x0, tilt, None, seeded()).x
    alone = PlugAndPlay(3, Posterior(5))(world(), x0[:1], tilt, None, seeded()).x
    torch.testing.assert_close(both[:1], alone)


def test_the_trace_has_the_reward_of_each_estimate():
    """Unscaled, after every step; with prox nothing is known of it."""
    tilt, seen = Tilt(REWARD, torch.tensor([2.0, 0.5])), []

    class Watched(PlugAndPlay):
        def step(self, run, x, s, t):
            x = super().step(run, x, s, t)
            seen.append(REWARD(x).view(2, 4).mean(1))
            return x

    trace = Watched(5)(world(), noise(2, 4, 3), tilt, None, seeded()).trace
    torch.testing.assert_close(trace["reward"], torch.stack(seen))
    assert (
        "reward"
        not in PlugAndPlay(5, prox=REWARD.prox)(world(), noise(2, 4, 3), tilt, None, seeded()).trace
    )


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda **more: PlugAndPlay(5, **more), (5, 0, 5, 4)),
        (lambda **more: PlugAndPlay(5, MapJump(), draws=3, **more), (13, 0, 5, 4)),
        (lambda **more: PlugAndPlay(5, FlowMapDenoiser(0.3), **more), (5, 0, 5, 4)),
        (lambda **more: PlugAndPlay(5, prox=lambda x, variance, cond: x, **more), (5, 0, 1, 0)),
    ],
)
def test_what_it_costs(build, expected):
    for most in (None, 3):
        e = build(max_batch=most)(
            Ball(), noise(2, 4, 2), Tilt(LinearReward([1.0, 0.0])), None, seeded()
        ).evaluations
        counted = (e.network_forward, e.network_backward, e.reward_forward, e.reward_backward)
        assert counted == pytest.approx(expected)


def test_a_value_that_is_not_finite_stops_with_sample_and_time():
    """Particle 1 of prompt 2 by the scale of its prompt and the noise: here the reward is bad where
    x is largest.
    """
    bad = lambda x: torch.where(x[:, 0] > 0.5, math.nan, 0.0 * x[:, 0])  # noqa: E731
    with pytest.raises(NonFiniteReward, match=r"<lambda> is nan for sample \d+ at t = 0\.\d+;"):
        PlugAndPlay(4)(Ball(), noise(2, 20, 2), Tilt(bad), None, seeded())
    with pytest.raises(
        NonFiniteReward, match=r"the gradient of <lambda> is not finite for sample 0 at t = 0\.25;"
    ):
        PlugAndPlay(4)(
            Ball(), noise(2, 4, 2), Tilt(lambda x: x.square().sum(1).sqrt()), None, seeded()
        )
    prox = lambda x, variance, cond: torch.where(torch.arange(len(x))[:, None] == 5, math.nan, x)  # noqa: E731
    with pytest.raises(
        NonFiniteReward, match=r"the proximal step is not finite for sample 5 at t = 0\.25;"
    ):
        PlugAndPlay(4, prox=prox)(
            Ball(), noise(2, 4, 2), Tilt(LinearReward([1.0, 0.0])), None, seeded()
        )


def test_refusals():
    x0 = torch.rand(1, 2, 1, 8, 8)
    with pytest.raises(ValueError, match="follows a reward; pass tilt="):
        PlugAndPlay()(Ball(), x0)
    with pytest.raises(
        ValueError, match=r"JpegSize has no gradient .* use PlugAndPlay\(prox=\.\.\.\)"
    ):
        PlugAndPlay()(Ball(), x0, Tilt(JpegSize()))
    with pytest.raises(ValueError, match="has no gradient"):
        PlugAndPlay()(Ball(), x0, Tilt(lambda x: x.detach().sum((1, 2, 3))))
    with pytest.raises(ValueError, match="draws=0"):
        PlugAndPlay(draws=0)
    with pytest.raises(ValueError, match="start > 0"):
        Decaying(0.0)
    with pytest.raises(ValueError, match="most > 0"):
        Matched(0.0)
    with pytest.raises(ValueError, match=r"reach in \[0, 1\].*reach=1\.5"):
        FlowMapDenoiser(1.5)
    x = PlugAndPlay(3, prox=lambda x, variance, cond: x)(
        Ball(), x0, Tilt(JpegSize())
    ).x  # with prox none is needed
    assert x.shape == x0.shape


# --- its denoisers ------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
def test_the_ends_of_the_reach_are_the_mean_and_the_jump(schedule):
    model, x = OneGaussian(schedule), noise(1, 50, 2)[0]
    for reach, known in ((0.0, Denoiser()), (1e-6, Denoiser()), (1.0, MapJump())):
        guess = FlowMapDenoiser(reach)(model, x, 0.3).x1
        torch.testing.assert_close(
            guess, known(model, x, 0.3).x1, rtol=1e-4 if 0 < reach < 1 else 1e-10, atol=1e-9
        )


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
def test_between_them_spread_is_bought_with_error_at_the_best_price(schedule):
    """Of all estimators with this law's spread, none has less error: |std - ideal std| and the
    error over the least add up as E|z - x1|^2 = least + (std_z - std_mean)^2 (Freirich et al. 2021,
    arXiv 2107.02555), here by the linear coefficient.
    """
    model, t = OneGaussian(schedule), torch.tensor(0.3)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    (alpha, sigma, _, _), slopes = schedule(0.3), []
    total = torch.sqrt(alpha**2 * STD**2 + sigma**2)
    for reach in (0.0, 0.25, 0.5, 0.75, 1.0):
        guess = FlowMapDenoiser(reach)(model, x, t).x1[0]
        slope = (guess[1] - guess[0])[0]
        error = (1 - slope * alpha) ** 2 * STD**2 + slope**2 * sigma**2
        least = STD**2 * sigma**2 / total**2
        mean_std = alpha * STD**2 / total
        assert error == pytest.approx(float(least + (slope * total - mean_std) ** 2))
        slopes.append(float(slope * total))
    assert slopes == sorted(slopes)  # from the spread of the mean to that of the data
    assert slopes[0] == pytest.approx(float(alpha * STD**2 / total))
    assert slopes[-1] == pytest.approx(STD)


def test_its_derivatives_are_those_of_finite_differences():
    model, x, h = (
        GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], steps=4),
        noise(1, 6, 2)[0],
        1e-5,
    )
    t, direction = torch.full((6,), 0.4, dtype=torch.float64), noise(1, 6, 2, seed=3)[0]
    for reach in (0.0, 0.5):
        guess = lambda x, t, reach=reach: FlowMapDenoiser(reach)(model, x, t).x1[0]  # noqa: E731
        numeric = (guess(x + h * direction, t + h) - guess(x - h * direction, t - h)) / (2 * h)
        _, exact = torch.func.jvp(guess, (x, t), (direction, torch.ones_like(t)))
        torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-7)
