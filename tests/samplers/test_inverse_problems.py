"""A linear measurement of a Gaussian mixture: the posterior is a mixture in closed form, and Z is
the evidence.
"""

from typing import NamedTuple

import pytest
import torch
from test_tilting_exact import mean_and_error, noise
from torch import Tensor

from rewards import Measurement
from rewards.operators import CompressedSensing, Mask
from steer.analytic import GaussianMixture
from steer.guidance import Unconditional
from steer.lookahead import Denoiser, FlowMapDenoiser, MapJump
from steer.samplers import TrajectoryTilting
from steer.tilt import Tilt

MEANS = torch.tensor([[-1.5, 0.0, 0.5], [1.5, 0.5, -0.5]], dtype=torch.float64)
SPREAD = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
COVARIANCES = 0.25 * torch.eye(3, dtype=torch.float64) + 0.1 * SPREAD @ SPREAD.mT
WEIGHTS = torch.tensor([0.6, 0.4], dtype=torch.float64)
LEVEL, STEP_ERROR = 0.6, 0.03
OPERATORS = {
    "mask": Mask(torch.tensor([True, False, True])),
    "dense": CompressedSensing.gaussian(2, (3,), torch.Generator().manual_seed(1)),
}


class Law(NamedTuple):
    """The posterior: weights (K,), means (K, d), covariances (K, d, d); and log p(y)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    log_evidence: Tensor


def posterior(operator, y):
    """Each component by the Kalman formulas; its weight grows with how well it foretold y."""
    a = operator(torch.eye(3, dtype=torch.float64)).T
    log_w, means, covariances = [], [], []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        foretold = a @ covariance @ a.T + LEVEL**2 * torch.eye(len(a), dtype=torch.float64)
        gain = covariance @ a.T @ torch.linalg.inv(foretold)
        law = torch.distributions.MultivariateNormal(a @ mean, foretold)
        log_w.append(weight.log() + law.log_prob(y))
        means.append(mean + gain @ (y - a @ mean))
        covariances.append(covariance - gain @ a @ covariance)
    log_w = torch.stack(log_w)
    return Law(log_w.softmax(0), torch.stack(means), torch.stack(covariances), log_w.logsumexp(0))


def world():
    return GaussianMixture.from_covariances(MEANS, COVARIANCES, weights=WEIGHTS, steps=4)


def measured(operator, n=1):
    x = world().sample(n, torch.Generator().manual_seed(7))
    return operator.observe(x, LEVEL, torch.Generator().manual_seed(8))


def check(result, rows, law, reward):
    """log evidence, mean, mean square and mode weights of the weighted samples, over independent
    prompts.
    """
    weights, x = result.log_w[rows].softmax(1)[..., None], result.x[rows]
    estimate, error = mean_and_error(result.log_z[rows] + reward.log_constant)
    assert abs(estimate - law.log_evidence) < 4 * error + STEP_ERROR
    mean, error = mean_and_error((weights * x).sum(1))
    assert ((mean - law.weights @ law.means).abs() < 4 * error + STEP_ERROR).all()
    square, error = mean_and_error((weights * x.square()).sum(1))
    second = law.covariances.diagonal(dim1=1, dim2=2) + law.means.square()
    assert ((square - law.weights @ second).abs() < 4 * error + 2 * STEP_ERROR).all()
    left, error = mean_and_error((weights[..., 0] * (x[..., 0] < 0)).sum(1))
    truth = torch.special.ndtr(-law.means[:, 0] / law.covariances[:, 0, 0].sqrt()) @ law.weights
    assert abs(left - truth) < 4 * error + STEP_ERROR


@pytest.mark.parametrize(
    ("name", "lookahead"),
    [
        ("mask", MapJump()),
        ("mask", Denoiser()),
        ("dense", Denoiser()),
        ("dense", FlowMapDenoiser(0.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_trajectory_tilting_samples_the_posterior(name, lookahead):
    operator = OPERATORS[name]
    y = measured(operator)
    reward, (x0, g) = Measurement(operator, y, LEVEL), noise(16, 256, 3)
    result = TrajectoryTilting(50, lookahead)(world(), x0, Tilt(reward), generator=g)
    check(result, slice(None), posterior(operator, y[0]), reward)


def test_every_prompt_may_have_its_own_measurement():
    """Two measurements, a dozen prompts each: the map must not take the number of a measurement for
    a condition.
    """
    operator = OPERATORS["dense"]
    y = measured(operator, 2)
    reward, (x0, g) = Measurement(operator, y, LEVEL), noise(24, 512, 3)
    which = torch.arange(2).repeat_interleave(12)
    result = TrajectoryTilting(60, Denoiser())(Unconditional(world()), x0, Tilt(reward), which, g)
    for i in range(2):
        check(result, which == i, posterior(operator, y[i]), reward)


def test_the_closed_form_is_bayes_rule():
    """p(y | x) p(x) = p(x | y) p(y) at any x."""
    for operator in OPERATORS.values():
        y = measured(operator)
        law, reward = posterior(operator, y[0]), Measurement(operator, y, LEVEL)
        x = world().sample(5, torch.Generator().manual_seed(2))
        after = GaussianMixture.from_covariances(law.means, law.covariances, weights=law.weights)
        torch.testing.assert_close(
            reward(x) + reward.log_constant + world().log_prob(x),
            after.log_prob(x) + law.log_evidence,
        )
