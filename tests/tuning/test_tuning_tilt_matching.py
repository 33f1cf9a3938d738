"""Tilt Matching: the velocity of the next tilt at any increment, the annealing, exact resume."""

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from test_tuning_diagonal import REWARD, M, Normal
from toys import OneJump, linear_map, noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.tuning import TiltMatching
from steer.tuning.tilt_matching import centred, increment_of

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples


def at(share):
    """World M tilted by a share of the reward."""
    return M.tilted(Quadratic(REWARD.center, share * REWARD.precision))[0] if share else M


class Between(torch.nn.Module):
    """v_a + c (v_{a+h} - v_a)."""

    def __init__(self, c, a, h):
        super().__init__()
        self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))
        self.ends = at(a), at(a + h)

    def forward(self, x, s, t, cond=None):
        before, after = (end.velocity(x, s) for end in self.ends)
        return before + self.c * (after - before)


def vertex(a, h, reward=REWARD, n=6000, **settings):
    """Where the loss, a parabola in c, rests."""
    slopes = []
    for c in (0.0, 1.0):
        flow_map = ResidualMap(Between(c, a, h), Linear())
        objective = TiltMatching(OneJump(), off_weight=0, ess=0.01, **settings)
        objective.old = SimpleNamespace(map=at(a))
        objective.a, objective.h = a, h
        loss = objective(flow_map, M, Tilt(reward), noise(n, 1), None, seeded(3), 0)
        slopes.append(torch.autograd.grad(loss.total, flow_map.network.c)[0].item())
    return slopes[0] / (slopes[0] - slopes[1])


@pytest.mark.parametrize(("a", "h"), [(0.0, 0.5), (0.0, 1.0), (0.5, 0.5)])
def test_it_rests_at_the_velocity_of_the_next_tilt(a, h):
    assert vertex(a, h) == pytest.approx(1.0, abs=0.05)


def test_a_constant_more_does_not_matter():
    offset = lambda x: REWARD(x) + 30.0  # noqa: E731
    for explicit in (False, True):
        plain, more = (vertex(0.0, 0.5, r, 300, explicit=explicit) for r in (REWARD, offset))
        assert more == pytest.approx(plain, abs=1e-6)


def test_the_error_of_the_explicit_form_halves_with_the_increment():
    errors = [vertex(0.0, h, n=5000, explicit=True) - 1 for h in (1.0, 0.5, 0.25)]
    assert errors[0] > 0.2
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_constant_reward_moves_nothing(explicit):
    flow_map = ResidualMap(Normal(0.3), Linear())
    objective = TiltMatching(OneJump(), off_weight=0, explicit=explicit)
    objective.prepare(flow_map, flow_map, Tilt(LinearReward([0.0])))
    tilt = Tilt(lambda x: 0 * x[:, 0] + 7.0)
    loss = objective(flow_map, flow_map, tilt, noise(400, 1), None, seeded(), 0)
    assert abs(torch.autograd.grad(loss.total, flow_map.network.m)[0]) < 1e-12
    assert objective.h == 1.0  # nothing to anneal


def test_rewards_of_minus_infinity_have_weight_zero():
    """A constraint x > 0: h counts what holds, and the explicit form has no use for it."""
    flow_map = ResidualMap(Normal(0.0), Linear())
    tilt = Tilt(lambda x: torch.where(x[:, 0] > 0, x[:, 0], -torch.inf))
    for explicit in (False, True):
        objective = TiltMatching(OneJump(), explicit=explicit)
        objective.prepare(flow_map, flow_map, tilt)
        if explicit:
            with pytest.raises(ValueError, match="explicit"):
                objective(flow_map, flow_map, tilt, noise(400, 1), None, seeded(), 0)
        else:
            assert objective(
                flow_map, flow_map, tilt, noise(400, 1), None, seeded(), 0
            ).total.isfinite()


# --- annealing ----------------------------------------------------------------------------------
def test_the_increment_keeps_its_share_of_the_effective_sample_size():
    """For normal rewards of standard deviation s it is e^{-h^2 s^2}, at any tilt of before."""
    levels = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    r = 3 * math.sqrt(2) * torch.erfinv(2 * levels - 1) + 100
    for before in (0.0, 0.1):
        found = increment_of(r, before, 0.5, 1.0)
        assert found == pytest.approx(math.sqrt(math.log(2)) / 3, rel=0.01)
    assert increment_of(r, 0.0, 0.5, 0.2) == 0.2


def test_rewards_are_compared_within_their_prompts():
    found = centred([[1.0, 3.0], [100.0, 104.0, 102.0], [55.0]])
    mean = (2 + 102 + 55) / 3
    expected = torch.tensor([-2.0, 2.0, -3.0, 3.0, 0.0, 55 - mean], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def annealed(objective, flow_map, optimizer, steps, tilt):
    """Runs steps; the tilts reached, and the map that the copy was at each."""
    seen = []
    for step in steps:
        objective.begin(flow_map, step)
        x0 = noise(64, seed=step).float()
        cond = torch.arange(64) % 2
        loss = objective(flow_map, flow_map, tilt, x0, cond, seeded(step), step)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        seen.append((objective.a, objective.a + objective.h, loss.total.item()))
    return seen


def started(**settings):
    flow_map = linear_map([[0.3, -0.5], [0.2, 0.1]]).float()
    objective = TiltMatching(Jump(2), round_steps=5, **settings)
    objective.prepare(flow_map, flow_map, Tilt(LinearReward([2.0, 0.0])))
    return objective, flow_map, torch.optim.Adam(flow_map.parameters(), 1e-3)


def test_the_tilt_grows_to_one_and_stays():
    objective, flow_map, optimizer = started(ess=0.5)
    tilt = Tilt(LinearReward([2.0, 0.0]))
    seen = annealed(objective, flow_map, optimizer, range(30), tilt)
    a = [one[0] for one in seen]
    reached = [one[1] for one in seen]
    assert a[:5] == [0.0] * 5
    assert 0.2 < reached[0] < 0.6  # sqrt(log 2) / sd of the reward
    assert a[5] == reached[4]  # the copy goes where the round has led
    assert all(x <= y for x, y in itertools.pairwise(a))
    assert reached[-1] == 1.0
    assert a[-1] < 1.0
    last = a.index(a[-1])
    assert last <= 20
    before = copy.deepcopy(objective.old.state_dict())
    objective.begin(flow_map, 35)
    assert all(torch.equal(before[k], v) for k, v in objective.old.state_dict().items())


def test_a_new_round_has_a_normaliser_and_samples_of_its_own():
    """A constant reward still moves nothing, and the samples are those of the new copy."""
    objective = TiltMatching(OneJump(), off_weight=0, round_steps=3, reuse=10)
    flow_map = ResidualMap(Normal(0.3), Linear())
    tilt = Tilt(lambda x: 0 * x[:, 0] + 7.0)
    objective.prepare(flow_map, flow_map, tilt)
    objective.h = 0.4
    for step, m in ((0, 0.3), (3, 0.8)):
        with torch.no_grad():
            flow_map.network.m.fill_(m)
        if step:
            objective.begin(flow_map, step)
        loss = objective(flow_map, flow_map, tilt, noise(50, 1), None, seeded(), step)
        assert abs(torch.autograd.grad(loss.total, flow_map.network.m)[0]) < 1e-12
        torch.testing.assert_close(objective.kept.z, noise(50, 1) + m)
    assert objective.a == 0.4
    assert objective.h == pytest.approx(0.6)


@pytest.mark.parametrize("reuse", [1, 3])
def test_a_resumed_run_goes_on_bit_for_bit(reuse):
    tilt = Tilt(LinearReward([2.0, 0.0]))
    settings = {"reuse": reuse, "ess": 0.9}  # more increments than there are rounds
    whole, map_whole, optimizer = started(**settings)
    expected = annealed(whole, map_whole, optimizer, range(18), tilt)

    first, flow_map, optimizer = started(**settings)
    annealed(first, flow_map, optimizer, range(7), tilt)
    saved = copy.deepcopy(
        (first.state_dict(), flow_map.state_dict(), optimizer.state_dict(), first.kept_state())
    )
    second, flow_map, optimizer = started(**settings)
    second.load_state_dict(saved[0])
    flow_map.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    second.keep(saved[3], torch.device("cpu"))
    found = annealed(second, flow_map, optimizer, range(7, 18), tilt)
    assert found == expected[7:]
    assert expected[7][0] < expected[17][0]  # there was a round between
    assert expected[17][1] < 1.0
    assert torch.equal(flow_map.network.weight, map_whole.network.weight)


def test_data_is_refused():
    from steer.data import Checkerboard

    with pytest.raises(ValueError, match="RewardWeighted"):
        TiltMatching(data=Checkerboard(8))
    with pytest.raises(ValueError, match="ess"):
        TiltMatching(ess=1.0)
