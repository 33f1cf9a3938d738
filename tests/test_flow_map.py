"""Flow maps: the identity, the tangent, the semigroup, and OdeMap held to the oracle."""

import math

import pytest
import torch
from torch import nn

from steer import counting
from steer.analytic import GaussianMixture, ring
from steer.flow_map import OdeMap, ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.networks import ClassCondition, Mlp
from steer.solvers import Euler, Heun, Rk4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(schedule=None):
    torch.manual_seed(0)
    return ResidualMap(Mlp(2, 32, 2, ClassCondition(3, 32)), schedule or Linear()).double()


def one_gaussian(mean, std, schedule, x, s, t):
    """X_{s,t} for N(mean, std^2 I): the whitened point stays where it is."""
    before = schedule(s)
    after = schedule(t)
    spread = [(c.alpha**2 * std**2 + c.sigma**2).sqrt()[:, None] for c in (before, after)]
    return after.alpha[:, None] * mean + spread[1] / spread[0] * (x - before.alpha[:, None] * mean)


MAPS = {
    "residual": learned,
    "ode": lambda: OdeMap(learned(), Linear(), steps=3, solver=Heun()),
    "function": lambda: OdeMap(lambda x, t, cond: torch.sin(x) * t[:, None], Linear(), steps=3),
    "mixture": lambda: ring(3, steps=8),
}


@pytest.fixture(params=MAPS, ids=str)
def flow_map(request):
    return MAPS[request.param]()


# Laws of every map


def test_staying_is_the_identity(flow_map):
    x = normal(5, 2)
    for t in (0.0, 0.3, 1.0, times(5)):
        torch.testing.assert_close(flow_map(x, t, t), x, rtol=0, atol=0)


def test_velocity_is_the_tangent_of_the_map(flow_map):
    x = normal(5, 2)
    s = times(5)
    _, tangent = torch.func.jvp(lambda t: flow_map(x, s, t), (s,), (torch.ones_like(s),))
    torch.testing.assert_close(tangent, flow_map.velocity(x, s), rtol=1e-12, atol=1e-12)


def test_lookahead_is_the_jump_to_data(flow_map):
    x = normal(5, 2)
    t = times(5)
    torch.testing.assert_close(flow_map.lookahead(x, t), flow_map(x, t, 1.0), rtol=0, atol=0)


def test_denoiser_and_score_are_conversions_of_the_velocity(flow_map):
    x = normal(5, 2)
    t = times(5)
    pair = flow_map.schedule.from_velocity(flow_map.velocity(x, t), x, t)
    torch.testing.assert_close(flow_map.denoise(x, t), pair.clean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        flow_map.score(x, t), -pair.noise / (1 - t)[:, None], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "name", ["residual", "ode", "function"]
)  # the mixture spends its steps by the longest jump
def test_every_sample_has_its_own_times_and_no_mates(name):
    flow_map = MAPS[name]()
    x = normal(5, 2)
    s = times(5)
    t = times(5, seed=1)
    together = flow_map(x, s, t)
    alone = [flow_map(x[i : i + 1], s[i].item(), t[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        flow_map(x[order], s[order], t[order]), together[order], rtol=1e-12, atol=1e-12
    )


def test_score_at_the_data_is_refused():
    with pytest.raises(ValueError, match="the score cannot be read off a model at t = 1"):
        learned().score(normal(2, 2), 1.0)


# ResidualMap


def test_residual_map_adds_the_average_velocity():
    flow_map = learned(Trigonometric())
    x = normal(3, 2)
    cond = torch.tensor([0, 2, -1])
    s, t = times(3), times(3, seed=1)
    u = flow_map.average_velocity(x, s, t, cond)
    torch.testing.assert_close(flow_map(x, s, t, cond), x + (t - s)[:, None] * u, rtol=0, atol=0)
    torch.testing.assert_close(
        flow_map.velocity(x, t, cond), flow_map.network(x, t, t, cond), rtol=0, atol=0
    )


def test_residual_map_times_are_never_rounded_to_half_precision():
    """A gap of 2^-12 at t near 1 is lost in bfloat16, whose neighbours there are 2^-8 apart."""

    class Times(nn.Module):
        def forward(self, x, s, t, cond=None):
            self.seen = s, t
            return torch.ones_like(x)

    flow_map = ResidualMap(Times(), Linear())
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    moved = flow_map(x, 1 - 2.0**-12, 1.0)
    assert all(seen.dtype == torch.float32 for seen in flow_map.network.seen)
    assert moved.dtype == torch.bfloat16
    assert (moved == 2.0**-12).all()


# OdeMap


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
def test_ode_map_is_the_closed_form_map_of_one_gaussian(schedule):
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    x = normal(6, 2)
    s = times(6)
    t = times(6, seed=1)
    law = GaussianMixture(mean[None], 0.5, schedule=schedule)
    exact = one_gaussian(mean, 0.5, schedule, x, s, t)
    torch.testing.assert_close(
        OdeMap(law, schedule, steps=200)(x, s, t), exact, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("solver", [Euler(), Heun(), Rk4()], ids=lambda s: type(s).__name__)
def test_ode_map_converges_to_the_oracle_at_its_order(solver):
    law = ring(8)
    x = normal(32, 2)
    exact = ring(8, steps=512)(x, 0.0, 1.0)
    errors = [
        (OdeMap(law, law.schedule, steps, solver)(x, 0.0, 1.0) - exact).norm(dim=1).median()
        for steps in (32, 64, 128)
    ]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(solver.order, abs=0.25)
    assert errors[0] > errors[1] > errors[2]


def test_there_and_back_and_by_way_of_the_middle():
    law = ring(8)
    x = normal(32, 2)
    s = times(32)
    t = times(32, seed=1)
    flow_map = OdeMap(law, law.schedule, steps=64)
    y = flow_map(x, s, t)
    torch.testing.assert_close(flow_map(y, t, s), x, rtol=1e-4, atol=1e-4)
    r = (s + t) / 2
    torch.testing.assert_close(flow_map(flow_map(x, s, r), r, t), y, rtol=1e-4, atol=1e-4)


def test_ode_map_passes_the_condition_on():
    law = ring(8)
    x = normal(4, 2)
    cond = torch.tensor([0, 3, 5, -1])
    flow_map = OdeMap(law, law.schedule, steps=64)
    torch.testing.assert_close(
        flow_map(x, 0.0, 1.0, cond), law(x, 0.0, 1.0, cond), rtol=1e-5, atol=1e-5
    )
    assert (flow_map(x, 0.0, 1.0, cond)[:3] - law.means[cond[:3]]).norm(dim=1).max() < 4 * 0.6


def test_ode_map_costs_steps_times_stages():
    x = normal(5, 2)
    for velocity in (learned(), lambda x, t, cond: -x):
        with counting.count() as tally:
            OdeMap(velocity, Linear(), steps=3, solver=Heun())(x, 0.0, 1.0)
        assert tally.network_forward == 5 * 3 * 2


def test_ode_map_needs_a_step():
    with pytest.raises(ValueError, match="at least one step; got steps=0"):
        OdeMap(learned(), Linear(), steps=0)


def test_gradients_reach_the_start_and_the_weights():
    flow_map = OdeMap(learned(), Linear(), steps=2)
    x = normal(2, 2).requires_grad_()
    flow_map(x, 0.0, 1.0).sum().backward()
    assert x.grad.abs().min() > 0
    used = [p for name, p in flow_map.named_parameters() if "table" not in name]
    assert all(p.grad.abs().sum() > 0 for p in used)
