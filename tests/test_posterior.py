"""PosteriorMap: draws by one jump of an inner map, and everything else the outer map's."""

import math

import pytest
import torch
from chance import generator, normal
from hidden import ExactInner

from rewards import Quadratic
from steer import checkpoint, counting
from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.guidance import ClassifierFree
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Glass, Posterior
from steer.lookahead.glass_flow import Context, GlassFlow
from steer.maps.posterior import PosteriorMap
from steer.metrics.energy_distance import energy_distance
from steer.metrics.floor import sampling_floor
from steer.networks import ClassCondition, ContextCondition, Mlp, WithContext
from steer.samplers import TrajectoryTilting
from steer.tilt import Tilt
from steer.value import Value

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]


def mixture(schedule=None, **more):
    std = torch.tensor([[0.5, 0.8], [0.9, 0.6]], dtype=torch.float64)
    return GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], std, [0.6, 0.4], schedule, **more)


def learned(condition=None):
    torch.manual_seed(0)
    network = WithContext(Mlp(2, 16, 2, ContextCondition(16, condition), beside=2))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator(1)))
    return ResidualMap(network, Linear()).double()


# Draws


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.5, 0.9])
def test_an_exact_inner_map_gives_exact_draws(schedule, t):
    """Energy distance below the largest of 100 between sets of exact draws."""
    law = mixture(schedule)
    n = 300
    exact = PosteriorMap(law, ExactInner(law, steps=16))
    x = normal(1, 2)
    guesses = exact.posterior_guesses(x, t, n, generator())
    assert torch.equal(guesses.log_w, torch.full((n, 1), -math.log(n), dtype=torch.float64))
    real, pool = (law.posterior_sample(x, t, k * n, generator(k))[0] for k in (1, 2))
    assert (
        energy_distance(guesses.x1[:, 0], real)
        < sampling_floor(energy_distance, pool, 100, generator()).max()
    )


def test_by_integration_it_is_the_look_ahead_glass():
    law = mixture()
    x = normal(4, 2)
    found = Posterior(3)(PosteriorMap(law, GlassFlow(law, steps=2)), x, 0.4, None, generator())
    expected = Glass(3, steps=2)(law, x, 0.4, None, generator())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_guess_is_one_jump_of_the_inner_map():
    law = mixture()
    inner = learned()
    x = normal(3, 2)
    t = torch.tensor([0.0, 0.6, 1.0]).double()
    guesses = PosteriorMap(law, inner).posterior_guesses(x, t, 2, generator(4))
    for x1, e in zip(guesses.x1, normal(2, 3, 2, seed=4), strict=True):
        context = Context(x, t, law.schedule)
        torch.testing.assert_close(
            x1, context.clean(inner(e, 0.0, 1.0, context)), rtol=1e-12, atol=1e-12
        )
    assert torch.equal(guesses.x1[:, 2], x[2].expand(2, 2))  # at t = 1


def test_the_gradient_is_that_of_finite_differences():
    model = PosteriorMap(mixture(), learned())
    h = 1e-6
    t = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    value = Value(Tilt(Quadratic([1.0, 0.0], 1.0)), Posterior(4))
    x = normal(3, 2)
    dx, dt = (normal(3, 2, seed=5), torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))

    def of(x, t):
        return value(model, x, t, None, generator())

    _, slope = torch.autograd.functional.jvp(of, (x, t), (dx, dt))
    numeric = (of(x + h * dx, t + h * dt) - of(x - h * dx, t - h * dt)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cond", [torch.tensor([0, 1, -1]), None], ids=["classes", "none"])
def test_samples_do_not_see_each_other(cond):
    inner = learned(ClassCondition(2, 16))
    context = Context(normal(3, 2), 0.4, Linear(), cond)
    e = normal(3, 2, seed=1)
    together = inner(e, 0.0, 1.0, context)
    alone = [inner(e[i : i + 1], 0.0, 1.0, context[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_a_draw_costs_one_evaluation():
    x = normal(5, 2).requires_grad_()
    with counting.count() as tally:
        Posterior(3)(
            PosteriorMap(mixture(), learned()), x, 0.3, None, generator()
        ).x1.sum().backward()
    assert (tally.network_forward, tally.network_backward) == (5 * 3, 5 * 3)


def test_weighted_particles_are_exact_with_draws_of_any_quality():
    """With an untrained inner map, log Z is right within its error."""
    law = mixture(steps=8)
    reward = Quadratic([1.0, 0.5], 0.5)
    sampler = TrajectoryTilting(30, Posterior(2))
    result = sampler(
        PosteriorMap(law, learned()), normal(16, 48, 2), Tilt(reward), None, generator()
    )
    _, log_z = law.tilted(reward)
    assert abs(result.log_z.mean() - log_z) < 4.5 * result.log_z.std() / 4 + 0.03


# The rest


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_everything_else_is_the_outer_map(schedule):
    law = mixture(schedule)
    x = normal(4, 2)
    cond = torch.tensor([0, 1, -1, 0])
    model = PosteriorMap(law, learned())
    assert model.schedule == law.schedule
    assert torch.equal(model(x, 0.2, 0.7, cond), law(x, 0.2, 0.7, cond))
    for name in ("velocity", "lookahead", "denoise", "score"):
        assert torch.equal(getattr(model, name)(x, 0.3, cond), getattr(law, name)(x, 0.3, cond))
    assert torch.equal(model.score(x, 1.0), law.score(x, 1.0))
    torch.testing.assert_close(model.endpoints(x, 0.3), law.endpoints(x, 0.3), rtol=0, atol=0)


def test_jumps_are_trusted_as_the_outer_maps_are():
    assert PosteriorMap(mixture(), learned()).jumps_follow_velocity
    assert not PosteriorMap(ClassifierFree(mixture()), learned()).jumps_follow_velocity


def test_the_inner_path_is_straight():
    with pytest.raises(
        ValueError,
        match=r"inner map of a PosteriorMap is on the path Linear\(\); got steer\.Trigonometric",
    ):
        PosteriorMap(mixture(), mixture(Trigonometric()))


def test_it_comes_back_from_a_checkpoint(tmp_path):
    mlp = {"_target_": "steer.networks.Mlp", "width": 16, "depth": 2}
    linear = {"_target_": "steer.interpolant.Linear"}
    context = {"_target_": "steer.networks.ContextCondition", "dim": 16}
    told = {
        "_target_": "steer.networks.WithContext",
        "network": {**mlp, "beside": 2, "condition": context},
    }
    residual = {"_target_": "steer.flow_map.ResidualMap", "schedule": linear}
    outer = {**residual, "network": mlp}
    inner = {**residual, "network": told}
    model = PosteriorMap(ResidualMap(Mlp(width=16, depth=2), Linear()), learned().float())
    recipe = {"_target_": "steer.maps.posterior.PosteriorMap", "flow_map": outer, "inner": inner}
    checkpoint.save(model, tmp_path / "map.safetensors", recipe)
    x = normal(3, 2).float()
    saved, loaded = (
        Posterior(2)(m, x, 0.3, None, generator()).x1 for m in (model, checkpoint.load(tmp_path))
    )
    assert torch.equal(saved, loaded)
