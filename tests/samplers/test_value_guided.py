"""The value-guided ODE and SDE: the tilted law without weights, with the exact value."""

import math
from itertools import pairwise

import pytest
import torch
from ball import Ball
from one_gaussian import MEAN, STD, OneGaussian
from selection import slow_but
from zoo import noise, seeded

from rewards import JpegSize
from rewards import Linear as LinearReward
from steer.analytic import GaussianMixture
from steer.interpolant import Linear, Trigonometric
from steer.lookahead import Denoiser, Lookahead, MapJump, Posterior, one
from steer.samplers import ValueGuided
from steer.tilt import Tilt

SLOPE, SCALES = [0.8, -1.2], torch.tensor([0.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric()], ids=repr)
def test_the_ode_carries_noise_to_the_tilted_gaussian(schedule):
    """Of a linear reward and Gaussian data the denoiser has the exact gradient, and x1 = m + std^2
    scale a + std x0.
    """
    x0, tilt = noise(2, 8, 2), Tilt(LinearReward(SLOPE), SCALES)
    truth = (
        MEAN + STD**2 * SCALES[:, None, None] * torch.tensor(SLOPE, dtype=torch.float64) + STD * x0
    )

    def error(steps):
        result = ValueGuided(steps, Denoiser(), eps=0.0)(
            OneGaussian(schedule), x0, tilt, None, seeded()
        )
        assert (result.log_w == 0).all()
        assert result.log_z is None
        return (result.x - truth).norm()

    errors = [error(steps) for steps in (100, 200, 400)]
    assert errors[2] < 0.02 * truth.norm()
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.15)


def test_the_sde_samples_the_tilted_gaussian():
    """Mean and variance of 20 000 samples, the step's first order taken out by two sizes."""
    tilt, x0 = Tilt(LinearReward(SLOPE), 1.5), noise(1, 20000, 2)
    truth = (MEAN + STD**2 * 1.5 * torch.tensor(SLOPE, dtype=torch.float64))[0]
    few, many = (
        ValueGuided(n, Denoiser())(OneGaussian(Linear()), x0, tilt, None, seeded(n)).x[0]
        for n in (60, 120)
    )
    mean, var = 2 * many.mean(0) - few.mean(0), 2 * many.var(0) - few.var(0)
    error = math.sqrt(5 / len(few))  # of 2 a - b, for independent a and b of unit error
    assert ((mean - truth).abs() < 4 * error * STD).all()
    assert ((var - STD**2).abs() < 4 * error * math.sqrt(2) * STD**2).all()


MIXTURE = GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], steps=8)
GENTLE = LinearReward([0.4, 0.0])


class ExactValue(Lookahead):
    """A guess whose reward is V_t(x)."""

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        v = flow_map.value(GENTLE, x, t) / GENTLE.direction[0]
        return one(torch.stack((v, torch.zeros_like(v)), dim=1))


@pytest.mark.parametrize(
    ("lookahead", "n"), [(ExactValue(), 20000), (Posterior(64), 6000)], ids=["exact", "draws"]
)
@pytest.mark.parametrize("eps", slow_but(["1.0"], [0.0, 1.0], ["0.0", "1.0"]))
def test_mean_and_mode_weights_of_a_mixture(eps, lookahead, n):
    """.40 of the mass is right of zero before the tilt, .68 after it: within 4 standard errors at
    step zero, by two sizes.
    """
    law, _ = MIXTURE.tilted(GENTLE)
    right = (law.weights * torch.special.ndtr(law.means[:, 0] / 0.7)).sum()
    truth = torch.stack((law.weights @ law.means[:, 0], right))

    def found(steps):
        x = ValueGuided(steps, lookahead, eps)(
            MIXTURE, noise(1, n, 2), Tilt(GENTLE), None, seeded(steps)
        ).x[0, :, 0]
        seen = torch.stack((x, (x > 0).double()))
        return seen.mean(1), seen.var(1) / n

    (few, few_error), (many, many_error) = found(40), found(80)
    assert ((2 * many - few - truth).abs() < 4 * torch.sqrt(4 * many_error + few_error)).all()


def test_a_single_guess_is_biased():
    """What the docstring warns of: it has one place for all that may come."""
    model, reward = (
        GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], steps=8),
        LinearReward([1.0, 0.0]),
    )
    law, _ = model.tilted(reward)
    x = ValueGuided(80, MapJump(), 0.0)(model, noise(1, 2000, 2), Tilt(reward), None, seeded()).x[
        0, :, 0
    ]
    assert abs(x.mean() - law.weights @ law.means[:, 0]) > 6 * x.std() / len(x) ** 0.5


def test_what_it_cannot_do():
    x0 = noise(1, 2, 1, 8, 8)
    with pytest.raises(ValueError, match="follows a reward; pass tilt="):
        ValueGuided(3)(Ball(), x0)
    with pytest.raises(ValueError, match=r"JpegSize has no gradient \(.*\); use Svdd or BestOfN"):
        ValueGuided(3)(Ball(), x0, Tilt(JpegSize()))
