"""The worlds against brute force: importance sampling from exact draws of the mixture, and
quadrature against closed forms.
"""

import pytest
import torch
from chance import generator, normal

from rewards import Quadratic
from steer.analytic import ring
from steer.analytic.benchmarks import WORLDS, Closed, Linear, Lobes, Summed, numbers

N = 20_000
worlds = pytest.mark.parametrize("name", WORLDS)


def off(values, truth):
    """The largest error of a mean in standard errors; coordinates without chance must be right."""
    error = (values.mean(0) - truth).abs()
    noise = values.std(0) / len(values) ** 0.5
    return float((error / (noise + 1e-12)).max())


@worlds
def test_log_z_mean_and_weights_agree_with_importance_sampling(name):
    world = WORLDS[name]()
    x = world.flow_map.sample(N, generator(1))
    ratio = (world.reward(x) - world.log_z).exp()[:, None]  # of the tilted law to the mixture
    assert off(ratio, 1.0) < 4
    assert off(ratio * (x - world.mean), 0.0) < 4
    judged = world.weights > 0.01
    assert off((ratio * (world.responsibilities(x) - world.weights))[:, judged], 0.0) < 4


@worlds
def test_exact_draws_have_the_stated_mean_and_weights(name):
    world = WORLDS[name]()
    x = world.sample(N, generator(2))
    assert x.shape == (N, world.dimension)
    assert off(x, world.mean) < 4
    judged = world.weights > 0.01
    assert off(world.responsibilities(x)[:, judged], world.weights[judged]) < 4
    assert float(world.weights.sum()) == pytest.approx(1)
    assert torch.equal(world.sample(50, generator(3)), world.sample(50, generator(3)))


@worlds
def test_exact_draws_follow_the_tilted_law_beyond_its_mean(name):
    """E*[exp(-r)] = 1 / Z, where exp(-r) has a variance; and E*[r] by importance sampling."""
    world = WORLDS[name]()
    r = world.reward(world.sample(N, generator(4)))
    base = world.reward(world.flow_map.sample(N, generator(5)))
    ratio = (base - world.log_z).exp()
    error = r.mean() - (ratio * base).mean()
    assert abs(error) < 4 * (r.var() + (ratio * (base - r.mean())).var()).sqrt() / N**0.5


def test_the_tilt_moves_every_world_by_something_to_see():
    assert {WORLDS[name]().dimension for name in WORLDS} == {2, 8, 64}
    for name in WORLDS:
        world = WORLDS[name]()
        base = world.flow_map
        assert (world.weights - base.weights).abs().max() > 0.08
        ratio = (world.reward(base.sample(N, generator(6))) - world.log_z).exp()
        assert (
            ratio.sum() ** 2 / ratio.square().sum() > 0.1 * N
        )  # and no further than plain weights can follow


@pytest.mark.parametrize(
    "reward",
    [Quadratic(numbers(3, 2), 0.5), Linear(numbers(0.5, 0.25))],
    ids=["quadratic", "linear"],
)
def test_sums_over_the_grid_agree_with_closed_forms(reward):
    closed = Closed(ring(), reward)
    summed = Summed(ring(), reward, highest=10.0, extent=12.0)
    assert summed.log_z == pytest.approx(closed.log_z, abs=1e-10)
    assert torch.allclose(summed.mean, closed.mean, atol=1e-10)
    assert torch.allclose(summed.weights, closed.weights, atol=1e-10)


def test_the_grid_of_the_lobes_is_fine_and_wide_enough():
    world = WORLDS["lobes"]()
    for more in ({"spacing": 0.1}, {"extent": 10.0}):
        other = Summed(world.flow_map, world.reward, world.highest, **more)
        assert other.log_z == pytest.approx(world.log_z, abs=1e-10)
        assert torch.allclose(other.mean, world.mean, atol=1e-10)
        assert torch.allclose(other.weights, world.weights, atol=1e-10)


def test_lobes_are_a_cosine_far_out_and_smooth_at_the_origin():
    reward = Lobes(1.5, 3)
    angle = torch.linspace(0, 6, 50, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    assert torch.allclose(reward(1e6 * circle), 1.5 * (3 * angle).cos(), atol=1e-9)
    assert torch.allclose(reward(2.0 * circle), 1.5 * 0.8**1.5 * (3 * angle).cos())
    assert (reward(normal(1000, 2)) <= reward.highest).all()
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(torch.autograd.grad(reward(x).sum(), x)[0], torch.zeros_like(x))
    x = normal(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(reward, x)
