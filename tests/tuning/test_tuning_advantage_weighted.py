"""Advantage Weighted Matching: its gradient, where it rests with a KL, and what moves nothing."""

import pytest
import torch
from test_tuning_diagonal import Normal
from toys import Brightness, linear_map, noise, seeded

from rewards import Linear as LinearReward
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.times import Uniform
from steer.tuning import AdvantageWeightedMatching
from steer.tuning.diagonal import Clean, renoised

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
SUM = Tilt(lambda x: x.sum(1))


@pytest.mark.parametrize("kl", [1.0, 2.0])
def test_with_a_kl_it_rests_at_the_covariance_under_its_own_law(kl):
    """On N(0, 1) with r = x, whose standardised reward is x less its mean: at N(1 / kl, 1)."""
    base = ResidualMap(Normal(0.0), Linear())

    def slope(m):
        flow_map = ResidualMap(Normal(m), Linear())
        objective = AdvantageWeightedMatching(Jump(1), kl=kl, noisings=4, off_weight=0)
        tilt = Tilt(LinearReward([1.0]))
        objective.prepare(flow_map, base, tilt)
        loss = objective(flow_map, base, tilt, noise(20_000, 1), None, seeded(3), 0)
        return torch.autograd.grad(loss.total, flow_map.network.m)[0].item()

    low, high = 0.8 / kl, 1.2 / kl
    at_low, at_high = slope(low), slope(high)
    assert low + (high - low) * at_low / (at_low - at_high) == pytest.approx(1 / kl, rel=0.05)


def noised(n):
    """Clean samples with their rewards, and noisy ones, in an order that mixes both."""
    z = noise(n)
    clean = Clean(z, SUM(z), torch.arange(n) % 3)
    return renoised(clean, Linear(), 2, Uniform(), seeded())


def advantages(seen):
    """By hand: less the mean of each label, by the deviation of all."""
    tilt, label = seen.clean.tilt, seen.clean.cond
    gap = torch.stack([r - tilt[label == k].mean() for r, k in zip(tilt, label, strict=True)])
    return (gap / tilt.std(correction=0))[seen.source]


def error(weight, seen):
    """The squared distance to I_t' by u = W x, averaged over dimensions."""
    return (seen.x_t @ weight.T - seen.path_velocity).square().mean(1)


@pytest.mark.parametrize("reuse", [1, 3])
def test_the_first_pass_weights_flow_matching_by_the_advantage(reuse):
    flow_map, seen = linear_map(WEIGHT), noised(30)
    objective = AdvantageWeightedMatching(kl=0, reuse=reuse, ratio_clip=1e-9)
    objective.prepare(flow_map, flow_map, SUM)
    losses, terms = objective.residual(flow_map, flow_map, SUM, seen, seeded())
    advantage = advantages(seen)
    torch.testing.assert_close(losses, -advantage, rtol=1e-4, atol=0)  # the ratio is 1
    assert terms["clipped"] == 0
    weight = torch.tensor(WEIGHT, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad((advantage * error(weight, seen)).mean(), weight)[0]
    found = torch.autograd.grad(losses.mean(), flow_map.network.weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_later_passes_weigh_by_the_ratio_to_the_map_that_drew():
    """The old map is that of the last step divisible by reuse, and the ratio is clipped."""
    old, moved = linear_map(WEIGHT), linear_map([[0.4, -0.2], [0.2, 0.3]])
    objective = AdvantageWeightedMatching(kl=0.3, reuse=2, ratio_clip=0.1)
    base = linear_map([[0.1, 0.2], [0.0, 0.4]])
    objective.prepare(moved, base, SUM)
    objective.begin(old, 4)
    objective.begin(moved, 5)
    assert torch.equal(objective.source(moved, base).network.weight, old.network.weight)
    seen = noised(30)
    found, terms = objective.residual(moved, base, SUM, seen, seeded())
    rho = torch.exp(error(old.network.weight, seen) - error(moved.network.weight, seen))
    advantage = advantages(seen)
    gain = torch.minimum(rho * advantage, rho.clamp(0.9, 1.1) * advantage)
    far = (seen.x_t @ (moved.network.weight - base.network.weight).T).square().mean(1)
    torch.testing.assert_close(found, 0.3 * far - gain, rtol=1e-4, atol=1e-4)
    assert 0.1 < terms["clipped"] < 0.9
    assert terms["clipped"] == ((rho - 1).abs() > 0.1).double().mean()


def test_a_constant_reward_moves_nothing_and_an_offset_changes_nothing():
    def slope(reward):
        flow_map, base = linear_map(WEIGHT), linear_map(WEIGHT)
        objective = AdvantageWeightedMatching(off_weight=0, kl=0.3)
        objective.prepare(flow_map, base, Tilt(reward))
        loss = objective(flow_map, base, Tilt(reward), noise(32), None, seeded(), 0)
        return torch.autograd.grad(loss.total, flow_map.network.weight)[0]

    assert slope(lambda x: 0 * x[:, 0] + 0.1).abs().max() < 1e-9
    plain = slope(lambda x: x.sum(1))
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(slope(lambda x: x.sum(1) + 50), plain)


def test_images_with_labels_and_reuse():
    flow_map, base = (ResidualMap(Brightness(), Linear()) for _ in range(2))
    objective = AdvantageWeightedMatching(Jump(2), 4, noisings=3, reuse=2)
    tilt = Tilt(lambda x: x.mean((1, 2, 3)))
    objective.prepare(flow_map, base, tilt)
    x0 = torch.randn(8, 1, 28, 28, generator=seeded())
    labels = torch.tensor([3, 3, 3, 3, 8, 8, 8, 8])
    for step in (4, 5):
        objective.begin(flow_map, step)
        objective(flow_map, base, tilt, x0, labels, seeded(step), step).total.backward()
    moved = flow_map.network.gain.grad
    assert (moved[[3, 8]] != 0).all()
    assert (moved[[0, 1, 2, 4, 5, 6, 7, 9]] == 0).all()
