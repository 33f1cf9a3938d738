"""Regressions of the velocity: where they rest, in closed form, and what does not move them."""

import copy
import math

import pytest
import torch
from toys import noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, expand
from steer.loops import RewardTuning
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.tuning import ReinforceAdjointMatching, RewardWeighted
from steer.tuning.diagonal import Clean, LogMeanExp, advantages
from steer.tuning.reward_weighted import redrawn

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
M = GaussianMixture([[-1.5], [1.0]], [[0.4], [0.5]], [0.4, 0.6], steps=32)
REWARD = Quadratic([1.6], 1.0)


class Between(torch.nn.Module):
    """b_base + a (b* - b_base), b* the velocity of the tilted mixture; all jumps are velocities."""

    def __init__(self, a):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.tilted = M.tilted(REWARD)[0]

    def forward(self, x, s, t, cond=None):
        base = M.velocity(x, s)
        return base + self.a * (self.tilted.velocity(x, s) - base)


def slope_of(objective, flow_map, base, reward, parameter, n, **call):
    """The derivative of the loss in one parameter."""
    loss = objective(flow_map, base, Tilt(reward), noise(n, 1), None, seeded(3), 0)
    return torch.autograd.grad(loss.total, parameter)[0].item()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_weighted_regression_rests_at_the_tilted_velocity(scale):
    """The loss is a parabola in a; its vertex is 1 with the reward, 0 with none."""

    def slope(a):
        flow_map = ResidualMap(Between(a), Linear())
        objective = RewardWeighted(Jump(1), noisings=4, off_weight=0)
        reward = REWARD if scale else LinearReward([0.0])
        return slope_of(objective, flow_map, M, reward, flow_map.network.a, 6000)

    at_0, at_1 = slope(0.0), slope(1.0)
    assert at_0 / (at_0 - at_1) == pytest.approx(scale, abs=0.05)


class Normal(torch.nn.Module):
    """The average velocity of N(m, 1): x -> t m + rho_t / rho_s (x - s m)."""

    def __init__(self, m):
        super().__init__()
        self.m = torch.nn.Parameter(torch.tensor(m, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        rho_s, rho_t = ((r**2 + (1 - r) ** 2).sqrt() for r in (s, t))
        change = 2 * (s + t - 1) / (rho_s + rho_t) / rho_s
        return self.m + expand(change, x) * (x - expand(s, x) * self.m)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_reinforce_adjoint_matching_rests_where_a_linear_tilt_does(offset):
    """On N(0, 1) with r = x + offset it is N(1, 1): Cov(r, I_t' | x_t) is exact to first order."""
    base = ResidualMap(Normal(0.0), Linear())

    def slope(m):
        flow_map = ResidualMap(Normal(m), Linear())
        objective = ReinforceAdjointMatching(Jump(1), noisings=4, clip=None, off_weight=0)
        reward = lambda x: x[:, 0] + offset  # noqa: E731
        return slope_of(objective, flow_map, base, reward, flow_map.network.m, 20_000)

    low, high = slope(0.8), slope(1.2)
    assert 0.8 + 0.4 * low / (low - high) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("make", [RewardWeighted, ReinforceAdjointMatching])
def test_a_constant_reward_moves_nothing(make):
    """The mean gradient at the base is noise."""
    slopes = []
    base = ResidualMap(Normal(0.3), Linear())
    for seed in range(40):
        flow_map = ResidualMap(Normal(0.3), Linear())
        objective = make(Jump(1), off_weight=0)
        tilt = Tilt(lambda x: 0 * x[:, 0] + 7.0)
        loss = objective(flow_map, base, tilt, noise(400, 1, seed), None, seeded(seed), 0)
        slopes.append(torch.autograd.grad(loss.total, flow_map.network.m)[0])
    slopes = torch.stack(slopes)
    assert abs(slopes.mean()) < 4 * slopes.std() / math.sqrt(40) + 1e-12


def test_the_jumps_learn_on_the_same_samples():
    """At an exact map there is no off-diagonal residual; at another one there is."""
    base = ResidualMap(Normal(0.3), Linear())
    objective = RewardWeighted(Jump(2))
    exact = objective(base, base, Tilt(LinearReward([1.0])), noise(50, 1), None, seeded(), 0)
    assert exact.terms["off_diagonal"] < 1e-12

    class Wrong(Normal):
        def forward(self, x, s, t, cond=None):
            return super().forward(x, s, t) + expand(t - s, x)

    wrong = ResidualMap(Wrong(0.3), Linear())
    found = objective(wrong, base, Tilt(LinearReward([1.0])), noise(50, 1), None, seeded(), 0)
    assert found.terms["off_diagonal"] > 1e-3


def test_advantages_are_of_each_prompt():
    tilt = torch.tensor([1.0, 3.0, 10.0, 5.0, 20.0], dtype=torch.float64)
    of_the_one = 5.0 - (1.0 + 3.0 + 10.0 + 20.0) / 4  # against all others, for want of its own
    expected = torch.tensor([-2.0, 2.0, -10.0, of_the_one, 10.0], dtype=torch.float64)
    labels = torch.tensor([4, 4, 1, 7, 1])
    torch.testing.assert_close(advantages(tilt, labels), expected)
    texts = ["a", "a", "b", "c", "b"]
    torch.testing.assert_close(advantages(tilt, texts), expected)
    torch.testing.assert_close(
        advantages(tilt, torch.nn.functional.one_hot(labels).double()), expected
    )
    alone = advantages(tilt, None)
    torch.testing.assert_close(alone, tilt - (tilt.sum() - tilt) / 4)


def test_the_normaliser_averages_what_came_before():
    normaliser = LogMeanExp(decay=0.9)
    batches = torch.randn(3, 50, dtype=torch.float64, generator=seeded()) + 400
    means = torch.logsumexp(batches, 1) - math.log(50)
    assert normaliser(batches[0])[0] == pytest.approx(means[0].item())
    assert normaliser(batches[1])[0] == pytest.approx(means[0].item())
    assert normaliser(batches[2])[0] == pytest.approx(
        (torch.logsumexp(means[:2], 0) - math.log(2)).item()
    )


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="noisings"):
        RewardWeighted(noisings=0)
    with pytest.raises(ValueError, match="reuse=0"):
        RewardWeighted(reuse=0)
    with pytest.raises(ValueError, match="clip"):
        ReinforceAdjointMatching(clip=-1)


def test_constraints_have_weight_zero_and_no_advantage():
    """A sample of reward -inf pulls nothing; a batch of nothing else, or a mean, is refused."""

    def half(x):
        return torch.where(x[:, 0] > 0, 0.0, -torch.inf).double()

    base = ResidualMap(Normal(0.0), Linear())
    seen = []
    for reward in (half, lambda x: torch.where(x[:, 0] > 0, 0.0, -40.0).double()):
        flow_map = ResidualMap(Normal(0.1), Linear())
        objective = RewardWeighted(Jump(1), off_weight=0)
        loss = objective(flow_map, base, Tilt(reward), noise(200, 1), None, seeded(), 0)
        seen.append(torch.autograd.grad(loss.total, flow_map.network.m)[0].item())
    assert seen[0] == pytest.approx(seen[1], rel=1e-9)
    nothing = Tilt(lambda x: torch.full((len(x),), -torch.inf, dtype=torch.float64))
    with pytest.raises(ValueError, match="none can be learned from"):
        RewardWeighted()(base, base, nothing, noise(8, 1), None, seeded(), 0)
    with pytest.raises(ValueError, match="no advantage"):
        ReinforceAdjointMatching()(base, base, Tilt(half), noise(8, 1), None, seeded(), 0)


def test_a_class_of_impossible_samples_weighs_nothing():
    """Its first batch is all -inf: weight zero, now and in the running estimate, and no NaN."""
    normaliser = LogMeanExp()
    labels = torch.tensor([0, 0, 1, 1])
    v = torch.tensor([1.0, 2.0, -torch.inf, -torch.inf], dtype=torch.float64)
    for _ in range(2):
        weight = torch.exp(v - normaliser(v, labels))
        assert weight.isfinite().all()
        assert (weight[2:] == 0).all()
        assert (weight[:2] > 0).all()
    later = torch.exp(v[[0, 0]] - normaliser(v[[0, 0]], labels[2:]))
    torch.testing.assert_close(later, torch.ones(2, dtype=torch.float64))
    some = redrawn(Clean(v[:, None], v, labels), 50, seeded())
    assert (some.cond == 0).all()


def test_a_prompt_seen_once_is_compared_with_the_others():
    """Its own reward would normalise its weight to one, whatever the reward."""
    normaliser = LogMeanExp()
    v = torch.tensor([0.0, 3.0], dtype=torch.float64)
    weights = torch.exp(v - normaliser(v, ["a", "b"]))
    assert weights[1] / weights[0] == pytest.approx(math.exp(3.0))
    again = torch.exp(v - normaliser(v, ["c", "d"]))
    assert again[1] / again[0] == pytest.approx(math.exp(3.0))


def test_redrawn_samples_compete_within_their_prompt():
    """Of a thousand prompts a batch holds few twice by chance: single samples could not compete."""
    base = ResidualMap(Normal(0.0), Linear())
    tilt = Tilt(lambda x: 50.0 * x[:, 0])
    objective = RewardWeighted(redrawn=4000, per_prompt=4, off_weight=0)
    loop = RewardTuning(
        copy.deepcopy(base),
        base,
        tilt,
        objective,
        (1,),
        4000,
        prompts=lambda n, g: torch.randint(10**6, (n,), generator=g),
        lr=0.1,
    )
    (cond,) = loop.draw(seeded())
    clean = objective.collect(base, base, tilt, noise(4000, 1), cond, seeded())
    some = redrawn(clean, objective.redrawn, seeded())
    # the largest of four normal draws has mean 1.0294 and variance .4917
    assert float(some.z.mean()) == pytest.approx(1.0294, abs=4 * (0.4917 / 1000) ** 0.5)
    with pytest.raises(ValueError, match="samples of each prompt"):
        RewardTuning(copy.deepcopy(base), base, tilt, objective, (1,), 6, lr=0.1)


class TwoClasses(StreamData):
    """Points near -2 of class 0 and near 2 of class 1."""

    def draw(self, generator):
        labels = torch.randint(2, (self.batch_size,), generator=generator)
        noise = torch.randn(self.batch_size, 1, generator=generator, dtype=torch.float64)
        return 4.0 * labels[:, None] - 2 + 0.1 * noise, labels


@pytest.mark.parametrize("labelled", [True, False])
def test_data_without_conditions_are_of_one_law(labelled):
    """The weight of the better class: its own normaliser leaves it alone, one law tilts it."""
    objective = RewardWeighted(data=TwoClasses(4000), labelled=labelled, off_weight=0)
    base = ResidualMap(Normal(0.0), Linear())
    tilt = Tilt(lambda x: 0.5 * x[:, 0])
    clean = objective.collect(base, base, tilt, noise(4, 1), None, seeded())
    weight = torch.exp(clean.tilt - objective.log_normaliser(clean.tilt, clean.cond))
    share = weight[clean.z[:, 0] > 0].sum() / weight.sum()
    exact = 1 / (1 + math.exp(-2.0))
    assert share.item() == pytest.approx(0.5 if labelled else exact, abs=0.03)


def test_rounds_and_data_exclude_each_other():
    with pytest.raises(ValueError, match="in rounds the samples are the map's own"):
        RewardWeighted(data=TwoClasses(4), round_steps=3)
