"""Every tuning objective of steer.tuning, as it comes: its claim, its randomness, its refusals."""

import inspect
from typing import get_args

import pytest
import torch
from toys import linear_map, noise, seeded

import steer.tuning
from rewards import Linear as LinearReward
from steer.tilt import Tilt
from steer.tuning import TuningObjective
from steer.tuning.objective import TuningClaim

WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
FOUND = [getattr(steer.tuning, name) for name in steer.tuning.__all__]
OBJECTIVES = [
    c
    for c in FOUND
    if inspect.isclass(c) and issubclass(c, TuningObjective) and not inspect.isabstract(c)
]

every_objective = pytest.mark.parametrize("make", OBJECTIVES, ids=lambda c: c.__name__)


def loss(make, reward, seed=1):
    tilt = Tilt(reward)
    flow_map = linear_map(WEIGHT)
    base = linear_map(WEIGHT).requires_grad_(False)
    objective = make()
    objective.prepare(flow_map, base, tilt)
    objective.begin(flow_map, 0)
    return objective(flow_map, base, tilt, noise(8, seed=seed), None, seeded(seed), 0)


def slope():
    return LinearReward(torch.tensor([1.0, -2.0], dtype=torch.float64))


def test_the_walk_finds_them():
    assert "Direct" in {c.__name__ for c in OBJECTIVES}


@every_objective
def test_it_claims_something_and_descends(make):
    assert make().claim in get_args(TuningClaim)
    found = loss(make, slope())
    assert found.total.isfinite()
    assert found.total.requires_grad
    assert all(not term.requires_grad for term in found.terms.values())


@every_objective
def test_all_randomness_is_the_generators(make):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert loss(make, slope()).total == loss(make, slope()).total != loss(make, slope(), 2).total
    assert torch.equal(torch.get_rng_state(), state)


@every_objective
def test_a_reward_without_a_gradient_is_refused_where_one_is_needed(make):
    reward = slope()
    reward.differentiable = False
    reward.why_not_differentiable = "It rounds."
    if make.needs_gradient:
        with pytest.raises(ValueError, match="no gradient"):
            loss(make, reward)
    else:
        assert loss(make, reward).total.isfinite()
