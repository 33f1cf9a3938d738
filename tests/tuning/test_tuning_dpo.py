"""DPO in flow form: where a constant change of velocity rests, and what its pairs are."""

import math

import pytest
import torch
from test_tuning_diagonal import Normal
from toys import OneJump, Shifted, ball_map, linear_map, noise, seeded

from rewards import Linear as LinearReward
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.times import TimeLaw
from steer.tuning import Dpo
from steer.tuning.diagonal import Clean, Renoised, renoised

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
REWARD = LinearReward([1.0])


class At(TimeLaw):
    """One time."""

    def __init__(self, t):
        self.t = t

    def sample(self, n, generator):
        return torch.full((n,), self.t)


class Given(StreamData):
    """The same pairs in every batch."""

    def __init__(self, pairs, cond=None):
        super().__init__(len(pairs))
        self.pairs, self.cond = pairs, cond

    def draw(self, generator):
        return self.pairs, self.cond


def shifted(shift):
    """The exact map of N(0, 1), its velocity changed by a constant."""
    return ResidualMap(Shifted(Normal(0.0), [shift]), Linear())


def slope(objective, shift, n, reward=REWARD, seed=3):
    flow_map, base = shifted(shift), shifted(0.0)
    loss = objective(flow_map, base, Tilt(reward), noise(n, 1), None, seeded(seed), 0)
    return torch.autograd.grad(loss.total, flow_map.network.shift)[0].item()


# where E (label - sigmoid(2 k e)) e = 0, with e = ((1 - t) d - t n) / (t^2 + (1 - t)^2) and d, n of
# variance 2, by quadrature: k = beta times the change
MANY = {"noisings": 8}
DRAWN = [(0.2, 0.391), (0.5, 0.210), (0.8, 0.0738)]


@pytest.mark.parametrize(
    ("preference", "t", "k", "beta"),
    [("drawn", t, k, 1.0) for t, k in DRAWN] + [("drawn", 0.5, 0.210, 2.5)],
)
def test_a_constant_change_rests_where_independent_noise_puts_it(preference, t, k, beta):
    objective = Dpo(OneJump(), beta=beta, preference=preference, times=At(t), off_weight=0, **MANY)
    low, high = (slope(objective, share * k / beta, 100_000) for share in (0.8, 1.2))
    assert 0.8 + 0.4 * low / (low - high) == pytest.approx(1.0, abs=0.05)


def test_the_better_of_two_is_a_stronger_preference():
    """Labels sign(d) instead of sigmoid(d), at t = 1/2."""
    objective = Dpo(OneJump(), preference="better", times=At(0.5), off_weight=0, **MANY)
    low, high = (slope(objective, share * 0.4266, 100_000) for share in (0.8, 1.2))
    assert 0.8 + 0.4 * low / (low - high) == pytest.approx(1.0, abs=0.05)


def test_at_the_base_it_is_a_coin():
    objective = Dpo(Jump(2), off_weight=0)
    base = linear_map([[0.3, -0.5], [0.2, 0.1]])
    loss = objective(base, base, Tilt(LinearReward([1.0, 2.0])), noise(8), None, seeded(), 0)
    assert loss.total.item() == pytest.approx(math.log(2), rel=1e-6)


def test_a_preference_the_other_way_is_the_opposite_gradient():
    """At the start, and with the noise of each member as it was."""
    flow_map, base = shifted(0.0), shifted(0.0)
    z = noise(100, 1)
    objective = Dpo()
    clean = Clean(z, z[:, 0], None)
    seen = renoised(clean, Linear(), 2, objective.times, seeded())
    other = torch.arange(200) ^ 1
    swapped = Renoised(
        clean,
        *(part[other] for part in (seen.x_t, seen.t, seen.path_velocity, seen.source)),
        None,
    )
    found = []
    for given in (seen, swapped):
        loss, _ = objective.residual(flow_map, base, Tilt(REWARD), given, seeded())
        found.append(torch.autograd.grad(loss.mean(), flow_map.network.shift)[0])
    assert abs(found[0]) > 1e-3
    torch.testing.assert_close(found[0], -found[1])


def test_members_share_their_time_and_not_their_noise():
    z = torch.zeros(6, 1, dtype=torch.float64)
    seen = renoised(Clean(z, z[:, 0], None), Linear(), 2, Dpo().times, seeded())
    first, second = seen.t.view(-1, 2).unbind(1)
    assert torch.equal(first, second)
    assert len(first.unique()) == 6
    first, second = seen.x_t.view(-1, 2).unbind(1)
    assert (first != second).all()


@pytest.mark.parametrize(("preference", "share"), [("drawn", 1 / (1 + math.e)), ("better", 0.0)])
def test_pairs_are_of_neighbours_the_preferred_one_first(preference, share):
    """Rewards 1 apart: the worse one is preferred with probability sigmoid(-1), or never."""
    tilt = Tilt(lambda x: torch.arange(len(x)).double() % 2 + 100, 1.0)
    base = shifted(0.0)
    x0 = noise(20_000, 1)
    labels = torch.arange(10_000).repeat_interleave(2)
    clean = Dpo(OneJump(), preference=preference).collect(base, base, tilt, x0, labels, seeded())
    assert torch.equal(clean.z.view(-1, 2).sort(1).values, x0.view(-1, 2).sort(1).values)
    second_wins = torch.isclose(clean.z[::2], x0[1::2])[:, 0]
    assert torch.equal(clean.tilt[::2] == 101.0, second_wins)
    assert torch.equal(clean.cond, labels)
    assert (~second_wins).double().mean() == pytest.approx(share, abs=4 * 0.5 / 100)


@pytest.mark.parametrize("preference", ["drawn", "better"])
def test_a_constant_more_does_not_matter(preference):
    objective = Dpo(OneJump(), preference=preference, off_weight=0)
    more = lambda x: REWARD(x) + 30.0  # noqa: E731
    assert slope(objective, 0.2, 200, more) == pytest.approx(slope(objective, 0.2, 200), abs=1e-9)


@pytest.mark.parametrize("preference", ["drawn", "better"])
def test_a_constant_reward_moves_nothing(preference):
    objective = Dpo(OneJump(), preference=preference, off_weight=0)
    constant = lambda x: 0 * x[:, 0] + 7.0  # noqa: E731
    slopes = torch.tensor([slope(objective, 0.0, 400, constant, seed) for seed in range(40)])
    assert abs(slopes.mean()) < 4 * slopes.std() / math.sqrt(40)


def test_pairs_of_data_need_no_reward():
    """The first of each pair is preferred; the condition of a pair is that of both."""

    def never(x):
        raise AssertionError("no reward is needed")

    pairs = torch.tensor([[[2.0], [-2.0]], [[3.0], [-1.0]]], dtype=torch.float64)
    objective = Dpo(data=Given(pairs, torch.tensor([4, 7])), off_weight=0, noisings=5000)
    kept = objective.collect(shifted(0.0), shifted(0.0), Tilt(never), noise(8, 1), None, seeded())
    assert kept.cond.tolist() == [4, 4, 7, 7]
    assert kept.z[:, 0].tolist() == [2.0, -2.0, 3.0, -1.0]
    assert slope(objective, 0.0, 8, never) < -0.1  # towards the preferred ones
    objective.data = Given(pairs.flip(1))
    assert slope(objective, 0.0, 8, never) > 0.1
    loss = objective(shifted(0.0), shifted(0.0), Tilt(never), noise(8, 1), None, seeded(), 0)
    assert "tilt" not in loss.terms


def test_errors_are_summed_over_dimensions():
    """Two copies of one coordinate count twice: half the beta makes up for it."""

    class Moved(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return 0 * x + 0.3

    class Still(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return 0 * x

    losses = []
    for copies in (1, 2):
        z = noise(4, 1).repeat(1, copies)
        clean = Clean(z, z[:, 0], None)
        seen = renoised(clean, Linear(), 1, Dpo().times, seeded())
        seen = seen._replace(x_t=seen.x_t[:, :1].repeat(1, copies))
        velocity = noise(4, 1, seed=5).repeat(1, copies)
        seen = seen._replace(path_velocity=velocity)
        maps = (ResidualMap(net, Linear()) for net in (Moved(), Still()))
        losses.append(Dpo(beta=2.0 / copies).residual(*maps, Tilt(REWARD), seen, seeded())[0])
    torch.testing.assert_close(*losses)


def test_pairs_of_different_prompts_are_refused():
    """Three samples of each prompt cannot be paired side by side."""
    objective, base = Dpo(preference="better"), ball_map()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="even per_prompt"):
        objective(ball_map(), base, Tilt(lambda x: x[:, 0]), noise(6), labels, seeded(), 0)
    with pytest.raises(ValueError, match="even per_prompt"):
        objective(ball_map(), base, Tilt(lambda x: x[:, 0]), noise(1), None, seeded(), 0)
