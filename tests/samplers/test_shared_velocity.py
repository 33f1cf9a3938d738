"""The velocity of a look-ahead belongs to its state: evaluated once, re-indexed with it, and
nothing else changes.
"""

import pytest
import torch
from zoo import noise, seeded

from rewards import Quadratic
from steer import counting
from steer.flow_map import FlowMap
from steer.interpolant import Linear, batch_time, expand
from steer.lookahead import Denoiser, FlowMapDenoiser, MapJump, ShortOde
from steer.samplers import (
    BeamSearch,
    FkSteering,
    RolloverBudgetForcing,
    Svdd,
    TrajectoryTilting,
    TransitionWeights,
    UnguidedTilting,
    ValueGuided,
)
from steer.solvers import Euler, Heun, Rk4, Solver
from steer.tilt import Tilt

N = 5  # steps
TILT = Tilt(Quadratic([1.0, 0.0], 3.0))


class Wavy(FlowMap):
    """A velocity without a closed flow, computed entry by entry: the same bits in any batch. Its
    jumps are one Euler step.
    """

    schedule = Linear()

    def forward(self, x, s, t, cond=None):
        return x + expand(batch_time(t, x) - batch_time(s, x), x) * self.velocity(x, s, cond)

    def velocity(self, x, t, cond=None):
        return counting.network(torch.sin(2 * x) + expand(batch_time(t, x), x) * (1 - x))


class SilentDenoiser(Denoiser):
    """The posterior mean that keeps its velocity to itself."""

    shares_velocity = False


class SilentShortOde(ShortOde):
    shares_velocity = False


class Midpoint(Solver):
    """Asks at x first, but not at its time; nothing of it may be taken for the velocity at t."""

    order, stages = 2, 2

    def step(self, velocity, x, t, h):
        dt = expand(h, x)
        return x + dt * velocity(x + dt / 2 * velocity(x, t + h / 2), t + h / 2)


# Looks at t_1 ... t_{N-1}, whose velocity the next drift takes; at t = 1 nothing is evaluated, and
# the first drift has had no look before it, but in RolloverBudgetForcing.
COUNTS = {
    "fk": (lambda ahead: FkSteering(N, ahead, every=1), N),
    "fk, at some": (lambda ahead: FkSteering(N, ahead, every=2), N),
    "svdd": (lambda ahead: Svdd(N, 4, ahead), 1 + 4 * (N - 1)),
    "svdd, one": (lambda ahead: Svdd(N, 1, ahead), N),
    "rollover": (lambda ahead: RolloverBudgetForcing(N, 4, ahead), 1 + 4 * (N - 1)),
    "beams": (lambda ahead: BeamSearch(N, 1, ahead, 1), N),
    "unguided": (
        lambda ahead: UnguidedTilting(
            N,
            ahead,
        ),
        N,
    ),
    "value": (lambda ahead: ValueGuided(N, ahead), N + 1),
}
SILENT = {
    "fk": 2 * N - 1,
    "fk, at some": N + 2,
    "svdd": 5 * N - 4,
    "rollover": 5 * N - 3,
    "beams": 2 * N - 2,
}


def run(sampler, particles=4):
    return sampler(Wavy(), noise(3, particles, 2), TILT, None, seeded())


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize(
    "lookahead", [Denoiser(), FlowMapDenoiser(0.0)], ids=["denoiser", "reach 0"]
)
def test_the_denoiser_costs_its_drift_nothing(name, most, lookahead):
    build, expected = COUNTS[name]
    sampler = build(lookahead)
    sampler.max_batch = most
    assert run(sampler).evaluations.network_forward == pytest.approx(expected)


def test_the_issue():
    """Twenty steps: 39 evaluations of FK steering, 96 of SVDD and 97 of RBF with four proposals,
    before.
    """
    samplers = (FkSteering(20, every=1), Svdd(20, 4), RolloverBudgetForcing(20, 4))
    costs = [run(sampler, particles=16).evaluations.network_forward for sampler in samplers]
    assert costs == pytest.approx([20, 1 + 4 * 19, 1 + 4 * 19])


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("most", [None, 5])
def test_nothing_else_changes(name, most):
    """Bit for bit, through resampling, branching and selection by rows; a wrong re-indexing would
    show.
    """
    build, _ = COUNTS[name]
    shared, silent = build(Denoiser()), build(SilentDenoiser())
    shared.max_batch = silent.max_batch = most
    one, other = run(shared, particles=12), run(silent, particles=12)
    if "resampled" in one.trace:
        assert one.trace["resampled"].any()
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.log_w, other.log_w)
    assert other.evaluations.network_forward == pytest.approx(SILENT[name])
    assert one.evaluations.reward_forward == other.evaluations.reward_forward


def test_a_look_ahead_that_needs_no_velocity_is_not_asked_for_one():
    """A jump at each proposal, and the drift's own velocity."""
    assert run(Svdd(N, 4, MapJump())).evaluations.network_forward == pytest.approx(N + 4 * (N - 1))
    assert run(
        FkSteering(N, FlowMapDenoiser(0.5), every=1)
    ).evaluations.network_forward == pytest.approx(2 * N - 1)


@pytest.mark.parametrize(("solver", "stages"), [(Euler(), 1), (Heun(), 2), (Rk4(), 4)])
def test_a_short_ode_begins_with_the_velocity(solver, stages):
    one, other = (
        run(FkSteering(N, kind(2, solver), every=1)) for kind in (ShortOde, SilentShortOde)
    )
    assert torch.equal(one.x, other.x)
    looks = 2 * stages * (N - 1)
    assert one.evaluations.network_forward == pytest.approx(1 + looks)
    assert other.evaluations.network_forward == pytest.approx(N + looks)


def test_a_short_ode_is_guided_as_before():
    """Values and gradients are those of an integration that knows nothing of the velocity, in x and
    t.
    """
    x, flow_map = noise(6, 2), Wavy()
    for solver in (Euler(), Heun(), Rk4()):
        found = []
        for known in (True, False):
            y = x.clone().requires_grad_()
            t = torch.full((6,), 0.3, dtype=x.dtype, requires_grad=True)
            if known:
                z = ShortOde(3, solver)(flow_map, y, t).x1[0]
            else:
                z, h = y, (1 - t) / 3
                for k in range(3):
                    z = solver.step(lambda x, t: flow_map.velocity(x, t), z, t + k * h, h)
            found.append([z, *torch.autograd.grad(z.square().sum(), [y, t])])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    guided = run(TrajectoryTilting(N, ShortOde(2), weighting=TransitionWeights()))
    assert guided.evaluations.network_forward == pytest.approx(4 * N)  # at t = 1 it has landed


def test_a_solver_that_asks_elsewhere_gets_its_own_velocity():
    flow_map, x, t = Wavy(), noise(6, 2), torch.full((6,), 0.3, dtype=torch.float64)
    guesses, v = ShortOde(1, Midpoint()).with_velocity(flow_map, x, t)
    expected = Midpoint().step(lambda x, t: flow_map.velocity(x, t), x, t, 1 - t)
    torch.testing.assert_close(guesses.x1[0], expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(v, flow_map.velocity(x, t))
