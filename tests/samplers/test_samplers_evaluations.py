"""What a sample costs, counted by hand: forwards and backwards of network and reward per returned
sample.
"""

import pytest
import torch
from ball import Ball
from zoo import noise, seeded

from rewards import Quadratic
from steer.lookahead import Denoiser, Glass, Identity, MapJump, Posterior, ShortOde
from steer.samplers import (
    BestOfN,
    Jump,
    Ode,
    PathWeights,
    Sde,
    TrajectorySearch,
    TrajectoryTilting,
    UnguidedTilting,
    ValueGuided,
)
from steer.solvers import Heun
from steer.tilt import Tilt

N = 5  # steps; trajectory tilting looks ahead at N + 1 times
PARTICLES = 4
GUIDED = [
    # The map: a jump and a velocity at each time but the last, where it has landed.
    (TrajectoryTilting(N, MapJump()), (2 * N, N, N + 1, N)),
    (TrajectoryTilting(N, MapJump(assume_consistent=False)), (2 * N, N, N + 1, N)),
    # Weights along the path ask for the rate at t = 1 too, but of a map that follows its velocity
    # it is known.
    (TrajectoryTilting(N, MapJump(), weighting=PathWeights()), (2 * N, N, N + 1, N)),
    (
        TrajectoryTilting(N, MapJump(assume_consistent=False), weighting=PathWeights()),
        (2 * N + 2, N + 1, N + 1, N + 1),
    ),
    (TrajectoryTilting(N, Denoiser(), weighting=PathWeights()), (N + 1, N + 1, N + 1, N + 1)),
    # The denoiser shares its velocity with the drift.
    (TrajectoryTilting(N, Denoiser()), (N, N, N + 1, N)),
    # Nothing is evaluated to look nowhere: the velocities are the drift's.
    (TrajectoryTilting(N, Identity()), (N, 0, N + 1, N)),
    # Two steps of Heun's, four velocities, the first of which is the drift's.
    (TrajectoryTilting(N, ShortOde(2)), (4 * N, 4 * N, N + 1, N)),
    # Three draws cost this world no network, but a reward each; in pieces as well, and at t = 1
    # there is one.
    (TrajectoryTilting(N, Posterior(3)), (N, 0, 3 * N + 1, 3 * N)),
    (TrajectoryTilting(N, Posterior(3, at_once=1)), (N, 0, 3 * N + 1, 3 * N)),
    # The first step looks ahead from its middle, where the drift has no velocity to share.
    (ValueGuided(N, Denoiser()), (N + 1, N, N + 1, N)),
    (ValueGuided(N, Glass(2, steps=1)), (5 * N, 4 * N, 2 * N + 1, 2 * N)),
    (TrajectoryTilting(N, Glass(3, steps=1, at_once=2)), (7 * N, 6 * N, 3 * N + 1, 3 * N)),
]
UNGUIDED = [
    (Ode(N), (N, 0, 1, 0)),
    (Ode(N, Heun()), (2 * N, 0, 1, 0)),
    (Sde(N), (N, 0, 1, 0)),
    (Jump(N), (N, 0, 1, 0)),
    (Jump(N, renoise=True), (N, 0, 1, 0)),
    (BestOfN(Jump(N)), (PARTICLES * N, 0, PARTICLES, 0)),
    (BestOfN(BestOfN(Ode(N))), (PARTICLES * N, 0, PARTICLES, 0)),
    (
        UnguidedTilting(
            N,
            MapJump(),
        ),
        (2 * N, 0, N + 1, 0),
    ),
    (
        UnguidedTilting(
            N,
            Denoiser(),
        ),
        (N, 0, N + 1, 0),
    ),
]


def counted(evaluations):
    e = evaluations
    return e.network_forward, e.network_backward, e.reward_forward, e.reward_backward


def cost(sampler, tilt):
    return counted(sampler(Ball(), noise(2, PARTICLES, 2), tilt, None, seeded()).evaluations)


@pytest.mark.parametrize(("sampler", "expected"), GUIDED + UNGUIDED)
def test_cost_per_returned_sample(sampler, expected):
    assert cost(sampler, Tilt(Quadratic([1.0, 0.0], 3.0))) == pytest.approx(expected)


def test_search_and_resampling_cost_nothing_more():
    tilt = Tilt(Quadratic([1.0, 0.0], 3.0))
    costs = {
        cost(sampler, tilt)
        for sampler in (
            TrajectoryTilting(N, resample_below=0.0),
            TrajectoryTilting(N, resample_below=1.0),
            TrajectoryTilting(N, film=2),
            TrajectorySearch(N, every=2),
        )
    }
    assert len(costs) == 1


def test_without_a_reward_none_is_evaluated():
    assert cost(Sde(N), None) == (N, 0, 0, 0)


def test_what_the_sampler_counts_is_what_the_model_sees():
    """An independent count, by a model that adds up the samples it is called with."""

    class Counting(Ball):
        seen = 0

        def velocity(self, x, t, cond=None):
            self.seen += len(x)
            return super().velocity(x, t, cond)

        def forward(self, x, s, t, cond=None):
            self.seen += len(x)
            return super().forward(x, s, t, cond)

    for sampler in (
        TrajectoryTilting(N, MapJump(), max_batch=3),
        TrajectoryTilting(N, ShortOde(2)),
        Ode(N, Heun()),
    ):
        model = Counting()
        result = sampler(model, noise(2, 4, 2), Tilt(Quadratic([1.0, 0.0], 3.0)), None, seeded())
        assert result.evaluations.network_forward * 8 == model.seen


def test_samplers_leave_weights_and_noise_alone():
    """No gradient is left behind in the model, and x0 is not written on."""
    x0, model = noise(1, 4, 2), torch.nn.Linear(2, 2).double()
    before = x0.clone()

    def learned(x):
        return model(x).sum(1)

    TrajectoryTilting(N)(Ball(), x0, Tilt(learned), None, seeded())
    assert model.weight.grad is None
    assert torch.equal(x0, before)
