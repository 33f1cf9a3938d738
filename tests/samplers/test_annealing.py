"""Levels of the tilt on the way, and the figures that tell how uneven a step made the weights."""

import math

import pytest
import torch
from ball import Ball
from zoo import noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.lookahead import Denoiser, MapJump, Posterior
from steer.resampling import effective_sample_size
from steer.samplers import PathWeights, Rising, Tempering, TrajectoryTilting, ValueSmc, tds
from steer.tilt import Tilt


def test_tempering_goes_as_far_as_it_may():
    value = noise(3, 50, 1)[..., 0] * torch.tensor([[0.1], [3.0], [30.0]])
    low = torch.tensor([0.0, 0.2, 0.001], dtype=torch.float64)

    def log_w(level):
        return level[:, None] * value

    level = Tempering(0.9, ahead=lambda t: 1.0)(
        log_w, low, 0.3, 0.301
    )  # so short a step that it need not rise
    assert level[0] == 1
    w, v = log_w(low).softmax(1), (log_w(level) - log_w(low)).exp()
    left = (w * v).sum(1) ** 2 / (w * v**2).sum(1)
    torch.testing.assert_close(
        left[1:], torch.full((2,), 0.9, dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert (level[1:] > low[1:]).all()


def test_tempering_has_a_highest_and_a_lowest_level():
    """What all bear goes up to 1, or as far ahead as it may; what none bears, to t^4, or stays
    where it is.
    """
    flat, steep = torch.zeros(1, 5), torch.tensor([[0.0, 1e6, 0.0, 0.0, 0.0]])
    runs = Tempering(0.9, ahead=lambda t: 1.0)
    for tempering, value, low, t, expected in (
        (runs, flat, 0.2, 0.6, 1.0),
        (Tempering(0.9), flat, 0.2, 0.6, 0.6),
        (Tempering(0.9), steep, 0.2, 0.8, 0.8**4),
        (Tempering(0.9), steep, 0.2, 0.5, 0.2),
    ):
        low = torch.tensor([low], dtype=torch.float64)
        level = tempering(
            lambda level, value=value, low=low: (level - low)[:, None] * value, low, 0.4, t
        )
        torch.testing.assert_close(
            level, torch.tensor([expected], dtype=torch.float64), rtol=1e-6, atol=1e-6
        )


def test_tempering_tames_a_steep_reward():
    """r = -10 |x - c|^2 on normal data in four dimensions, 25 steps: the first even level already
    leaves few particles.

    At equal cost log Z is 1.3 low with l_t = t and within .1 with Tempering().
    """
    center, precision = [2.0, 0.0, 0.0, 0.0], 20.0
    log_z = -2 * math.log(1 + precision) - 2 * precision / (1 + precision)
    error = {}
    for name, level in (("even", lambda t: t), ("tempered", Tempering())):
        result = TrajectoryTilting(25, MapJump(), annealing=level)(
            Ball(), noise(64, 128, 4).double(), Tilt(Quadratic(center, precision)), None, seeded()
        )
        error[name] = result.log_z - log_z
    waits = result.trace["level"][:-1] < result.trace["t"][:-1, None] - 1e-6
    assert waits.double().mean() > 0.8  # it does temper
    assert abs(error["tempered"].mean()) < 0.1 + 3 * error["tempered"].std() / 8
    assert error["tempered"].square().mean() < error["even"].square().mean() / 9


@pytest.mark.parametrize("steps", [25, 100])
def test_tempering_does_not_trust_a_blurred_look_ahead_early(steps):
    """The denoiser's guesses are alike at first, and would bear any level: the error of log Z is no
    worse than without.
    """
    model = GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.4, [0.6, 0.4])
    reward = Quadratic([1.0, 0.5], 4.0)
    _, log_z = model.tilted(reward)
    error = {}
    for name, level in (("tempered", Tempering()), ("even", lambda t: t)):
        result = TrajectoryTilting(steps, Denoiser(), annealing=level)(
            model, noise(24, 128, 2), Tilt(reward), None, seeded()
        )
        error[name] = (result.log_z - log_z).square()
    assert error["tempered"].mean() < error["even"].mean() + 3 * error["even"].std() / 24**0.5


def test_the_weights_that_a_level_gives_at_once_are_part_of_the_length():
    """r = a . x on standard normal data: the look-ahead of the noise is worth a . x0, of standard
    deviation |a|.
    """
    tilt = Tilt(LinearReward([0.6, 0.8]))
    whole, even = (
        TrajectoryTilting(
            10, MapJump(), annealing=level, weighting=PathWeights(), resample_below=0
        )(Ball(), noise(8, 2000, 2), tilt, None, seeded()).trace
        for level in (1, lambda t: t)
    )
    assert abs(whole["thermodynamic_length"][0].mean() - 1) < 0.05
    assert whole["total_discrepancy"][0].mean() > 0.5
    assert even["thermodynamic_length"][0].mean() < 0.15


def test_a_level_rises_to_one_and_a_harder_prompt_is_given_less_of_it():
    sampler = TrajectoryTilting(8, MapJump(), annealing=Tempering(0.9), resample_below=0.5)
    tilt = Tilt(LinearReward([1.0, 0.0]), torch.tensor([0.5, 3.0]))
    level = sampler(Ball(), noise(2, 200, 2), tilt, None, seeded()).trace["level"]
    assert level.shape == (8, 2)
    assert (level.diff(dim=0) >= 0).all()
    assert (level[-1] == 1).all()
    assert (level[:, 1] <= level[:, 0]).all()
    assert level[0, 1] < level[0, 0]
    assert (level <= torch.arange(1, 9)[:, None] / 8 + 1e-12).all()


def test_the_exponential_rise():
    assert Rising(3.0)(0.0) == 0
    assert Rising(3.0)(0.5) == pytest.approx(1 / 3)  # (2 - 1) / 3
    assert Rising(3.0)(1.0) == 1
    assert Rising(1e-6)(0.3) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("steps", [10, 40])
def test_length_and_discrepancy_of_a_linear_tilt(steps):
    """Standard normal data, r = a . x: a step gains h a . N, so the length is |a| and every log(1 +
    CV^2) is h^2 |a|^2.
    """
    sampler, size = TrajectoryTilting(steps, MapJump(), weighting=PathWeights()), 1.5
    tilt = Tilt(LinearReward([0.6 * size, 0.8 * size]))
    trace = sampler(Ball(), noise(8, 2000, 2), tilt, None, seeded()).trace
    for name, expected, step_error in (
        ("thermodynamic_length", size, 0.0),
        ("total_discrepancy", size**2 / steps, size**2 / steps**2),
    ):
        total = trace[name].sum(0)
        assert (
            abs(total.mean() - expected)
            < 4 * total.std() / math.sqrt(8) + step_error + 0.02 * expected
        )


@pytest.mark.slow
def test_good_values_leave_the_weights_alone():
    """On the path of values the law is its own: the weights move by the steps and by the error of
    the values alone.
    """
    model, tilt = (
        GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4]),
        Tilt(Quadratic([1.0, 0.5], 1.0)),
    )
    ess = {}
    for name, sampler in (
        ("many", ValueSmc(100, Posterior(128), resample_below=0)),
        ("coarse", ValueSmc(25, Posterior(128), resample_below=0)),
        ("few", ValueSmc(100, Posterior(4), resample_below=0)),
        ("denoiser", tds(100, resample_below=0)),
    ):
        result = sampler(model, noise(4, 256, 2), tilt, None, seeded())
        ess[name] = effective_sample_size(result.log_w).mean() / 256
    assert ess["many"] > 0.9
    for other in ("coarse", "few", "denoiser"):
        assert ess["many"] > ess[other] + 0.05


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrajectoryTilting(2, Denoiser(), annealing=lambda t: 0.5 * t), "ends at 1"),
        (lambda: Tempering(1.0), "keep=1.0"),
        (lambda: Rising(0.0), "positive"),
    ],
)
def test_refusals_of_levels(build, message):
    with pytest.raises(ValueError, match=message):
        build()
