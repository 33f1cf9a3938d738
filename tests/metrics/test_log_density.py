"""The density of a sampler's own samples, against closed forms."""

import math

import pytest
import torch

from steer.analytic import GaussianMixture
from steer.analytic.benchmarks import TUNING_WORLDS
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.maps import NoiseTilted
from steer.metrics.log_density import carried, heun_steps, jumps

TWO = GaussianMixture([[-1.5, 0.0], [1.0, 0.5]], [[0.4, 0.7], [0.5, 0.3]], [0.4, 0.6], steps=64)


def noise(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("number", [1, 4])
def test_jumps_of_an_exact_map_have_its_density(number):
    x, log_q, _ = carried(jumps(TWO, number), noise(50, 2))
    torch.testing.assert_close(log_q, TWO.log_prob(x), rtol=0, atol=2e-4)


def test_steps_have_it_in_the_limit_and_their_own_before():
    """The error falls with the square of the step."""
    errors = []
    for number in (40, 80):
        x, log_q, _ = carried(heun_steps(TWO, number), noise(200, 2))
        errors.append((log_q - TWO.log_prob(x)).abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35)


def test_noise_that_is_moved_first_counts():
    """x0 + f(x0) with f linear, then the identity."""

    class Scale(torch.nn.Module):
        def __init__(self, gain):
            super().__init__()
            self.gain = gain

        def forward(self, x, s, t, cond=None):
            return self.gain * x

    still, moved = ResidualMap(Scale(0.0), Linear()), ResidualMap(Scale(0.7), Linear())
    x, log_q, _ = carried(jumps(NoiseTilted(still, moved), 1), noise(30, 3))
    torch.testing.assert_close(x, 1.7 * noise(30, 3))
    expected = torch.distributions.Normal(0.0, 1.7).log_prob(x).sum(1)
    torch.testing.assert_close(log_q, expected.double())


@pytest.mark.parametrize("name", TUNING_WORLDS)
def test_the_tilted_law_of_a_world_is_a_density(name):
    """E[exp(log p* - log p)] = 1 under the base, and exact draws have the mean that is told."""
    world = TUNING_WORLDS[name]()
    generator = torch.Generator().manual_seed(0)
    x = world.flow_map.sample(200_000, generator)
    ratio = (world.log_density(x) - world.flow_map.log_prob(x)).exp()
    error = ratio.std() / math.sqrt(len(x))
    assert abs(ratio.mean() - 1) < 4 * error < 0.06
    drawn = world.sample(50_000, generator)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - world.mean).abs() < 4.5 * error).all()


def test_a_map_that_folds_turns_the_orientation_of_the_samples_beyond_the_fold():
    samples = carried([lambda x: x.square() - x], noise(4000, 1))
    beyond = 0.5 * math.erfc(-0.5 / math.sqrt(2))  # P(x < 1/2), where the slope is negative
    assert samples.folded == pytest.approx(1 - beyond, abs=0.025)
    assert carried(jumps(TWO, 1), noise(200, 2)).folded == 0
