"""DiffusionNFT: its optimum in closed form, and what moves nothing (MeanFlowNFT likewise)."""

import pytest
import torch
from test_tuning_diagonal import M, Normal
from toys import Brightness, linear_map, noise, seeded

from rewards import Linear as LinearReward
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.times import Uniform
from steer.tuning import DiffusionNft, MeanFlowNft
from steer.tuning.diagonal import Clean, renoised
from steer.tuning.objective import Follower

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
both = pytest.mark.parametrize("make", [DiffusionNft, MeanFlowNft])


class Along(torch.nn.Module):
    """A map's average velocity plus a times a direction(x, s, t)."""

    def __init__(self, a, flow_map, direction):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.of = (flow_map, direction)

    def forward(self, x, s, t, cond=None):
        flow_map, direction = self.of
        return flow_map.average_velocity(x, s, t) + self.a * direction(x, s, t)


def vertex(make, old, direction, n, lowest=0.0, highest=1.0):
    """Where the loss is least along a direction, by its slopes at two points: it is a parabola."""

    def slope(a):
        flow_map = ResidualMap(Along(a, old, direction), Linear())
        objective = make()
        objective.old = Follower(flow_map)
        objective.old.map = old
        tilt = Tilt(LinearReward([1.0]))
        loss = objective(flow_map, old, tilt, noise(n, 1), None, seeded(3), 0)
        return torch.autograd.grad(loss.total, flow_map.network.a)[0].item()

    low, high = slope(lowest), slope(highest)
    return lowest + (highest - lowest) * low / (low - high)


@pytest.mark.parametrize(("beta", "clip"), [(0.5, 5), (2.0, 8)])
def test_its_optimum_is_a_covariance_under_the_old_law(beta, clip):
    """On a mixture with r = x: v_old + Cov(x, I_t' | x_t) / (std c beta)."""
    h = 1e-3
    tilted = [M.tilted(LinearReward([k]))[0] for k in (-h, h)]

    def covariance(x, s, t):
        low, high = (mixture.velocity(x, s) for mixture in tilted)
        return (high - low) / (2 * h)

    def make():
        return DiffusionNft(Jump(1), beta=beta, advantage_clip=clip, kl=0, noisings=4, off_weight=0)

    mean = M.weights @ M.means
    std = (M.weights @ (M.std**2 + (M.means - mean) ** 2)).sqrt().item()
    found = vertex(make, M, covariance, 5000)
    assert found * std * clip * beta == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kl", [1.0, 2.0])
def test_with_a_kl_it_rests_at_the_covariance_under_its_own_law(kl):
    """On N(0, 1) with r = x, whose standardised reward is x less its mean: at N(1 / kl, 1)."""
    base = ResidualMap(Normal(0.0), Linear())

    def slope(m):
        flow_map = ResidualMap(Normal(m), Linear())
        objective = DiffusionNft(Jump(1), kl=kl, noisings=4, off_weight=0)
        tilt = Tilt(LinearReward([1.0]))
        objective.prepare(flow_map, base, tilt)
        loss = objective(flow_map, base, tilt, noise(20_000, 1), None, seeded(3), 0)
        return torch.autograd.grad(loss.total, flow_map.network.m)[0].item()

    low, high = 0.8 / kl, 1.2 / kl
    at_low, at_high = slope(low), slope(high)
    assert low + (high - low) * at_low / (at_low - at_high) == pytest.approx(1 / kl, rel=0.05)


@both
@pytest.mark.parametrize("normalised", [False, True])
def test_a_constant_reward_moves_nothing_and_an_offset_changes_nothing(make, normalised):
    def slope(reward):
        flow_map, base = linear_map(WEIGHT), linear_map(WEIGHT)
        objective = make(normalised=normalised, off_weight=0, kl=0.3)
        objective.prepare(flow_map, base, Tilt(reward))
        loss = objective(flow_map, base, Tilt(reward), noise(32), None, seeded(), 0)
        return torch.autograd.grad(loss.total, flow_map.network.weight)[0]

    assert slope(lambda x: 0 * x[:, 0] + 0.1).abs().max() < 1e-9
    plain = slope(lambda x: x.sum(1))
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(slope(lambda x: x.sum(1) + 50), plain)


def test_as_published_the_errors_are_absolute_in_one_dimension():
    """The slope in v is c / beta * 2 beta (1 - t) (r sign(v+ - I') - (1 - r) sign(v- - I'))."""
    n, beta = 500, 0.7
    objective = DiffusionNft(beta=beta, kl=0, normalised=True)
    old, flow_map = ResidualMap(Normal(0.0), Linear()), ResidualMap(Normal(0.4), Linear())
    objective.prepare(old, old, Tilt(LinearReward([1.0])))
    z = noise(n, 1)
    seen = renoised(Clean(z, z[:, 0], None), Linear(), 1, Uniform(), seeded())
    squared, _ = objective.residual(flow_map, old, None, seen, seeded())
    v, v_old = (f.velocity(seen.x_t, seen.t) for f in (flow_map, old))
    r = 0.5 + ((z - z.mean()) / (z.std(correction=0) + 1e-4)).clamp(-5, 5) / 10
    towards = torch.sign(v_old + beta * (v - v_old) - seen.path_velocity)
    away = torch.sign(v_old - beta * (v - v_old) - seen.path_velocity)
    slope = 5 * 2 * (1 - seen.t[:, None]) * (r * towards - (1 - r) * away)
    d_v = torch.func.jvp(
        lambda m: Normal(0.0).forward(seen.x_t, seen.t, seen.t) + m * (v - v_old) / 0.4,
        (torch.tensor(0.4),),
        (torch.tensor(1.0),),
    )[1]
    expected = (slope * d_v).mean()
    found = torch.autograd.grad(squared.mean(), flow_map.network.m)[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("decay", "step", "moved"), [(None, 0, 1), (None, 200, 0.9), (None, 5000, 0.5), (0.3, 0, 0.7)]
)
def test_the_old_policy_follows_at_collections(decay, step, moved):
    """As published it keeps min(.001 n, .5) of itself at the n-th collection."""
    zero, one = linear_map(torch.zeros(2, 2)), linear_map(torch.ones(2, 2))
    objective = DiffusionNft(old_decay=decay, reuse=2)
    objective.prepare(zero, zero, Tilt(LinearReward([1.0, 0.0])))
    objective.begin(one, step + 1)
    assert (objective.old.map.network.weight == 0).all()
    objective.begin(one, step)
    torch.testing.assert_close(objective.old.map.network.weight, one.network.weight * moved)


@both
def test_images_with_labels_and_reuse(make):
    flow_map, base = (ResidualMap(Brightness(), Linear()) for _ in range(2))
    objective = make(Jump(2), 4, noisings=3, reuse=2, old_decay=0.5)
    tilt = Tilt(lambda x: x.mean((1, 2, 3)))
    objective.prepare(flow_map, base, tilt)
    x0 = torch.randn(8, 1, 28, 28, generator=seeded())
    labels = torch.tensor([3, 3, 3, 3, 8, 8, 8, 8])
    for step in (4, 5):
        objective.begin(flow_map, step)
        loss = objective(flow_map, base, tilt, x0, labels, seeded(step), step)
        loss.total.backward()
    moved = flow_map.network.gain.grad
    assert (moved[[3, 8]] != 0).all()
    assert (moved[[0, 1, 2, 4, 5, 6, 7, 9]] == 0).all()
