"""Best of N: the law of the maximum, for rewards whose distribution is known."""

import math

import pytest
import torch
from ball import Ball

from steer.samplers import BestOfN, Jump, Ode
from steer.tilt import Tilt

PROMPTS = 4_000


def best(n, reward, scale=1.0, base=None):
    """The best of n standard normal numbers, for many prompts: Ball's jump leaves the noise as it
    is.
    """
    x0 = torch.randn(PROMPTS, n, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return BestOfN(base or Jump(1))(Ball(), x0, Tilt(reward, scale))


def first(x):
    return x[:, 0]


def close(sample, truth):
    return abs(sample.mean() - truth) < 4 * sample.std() / len(sample) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_the_best_of_uniform_rewards(n):
    """r = Phi(x) is uniform: E max = n / (n + 1), and the same for the worst under a negative
    scale.
    """
    reward = lambda x: torch.special.ndtr(x[:, 0])  # noqa: E731
    assert close(reward(best(n, reward).x[:, 0]), n / (n + 1))
    assert close(reward(best(n, reward, -1.0).x[:, 0]), 1 / (n + 1))


@pytest.mark.parametrize(
    ("n", "expected"), [(2, 1 / math.pi**0.5), (3, 1.5 / math.pi**0.5), (5, 1.1629644736)]
)
def test_the_best_of_normal_rewards(n, expected):
    assert close(best(n, first).tilt[:, 0], expected)


def test_its_distance_from_the_base_law():
    """log(N F^(N-1)) has mean log N - (N-1)/N under the best, as the docstring says."""
    n = 8
    x = best(n, first).x[:, 0, 0]
    assert close(math.log(n) + (n - 1) * torch.special.log_ndtr(x), math.log(n) - (n - 1) / n)


def test_one_of_one_is_the_base_sampler():
    result, x0 = best(1, first, base=Ode(2)), torch.randn(1, 1, 1)
    assert result.x.shape == (PROMPTS, 1, 1)
    assert torch.equal(BestOfN(Ode(2))(Ball(), x0, Tilt(first)).x, Ode(2)(Ball(), x0).x)


def test_a_maximiser_gives_no_log_z_and_no_weights():
    result = best(4, first)
    assert result.log_z is None
    assert not result.log_w.any()
