"""Flow-Map GRPO: the kernel keeps the marginals, the gradient is the policy gradient."""

import math
from itertools import pairwise

import pytest
import torch
from test_tuning_diagonal import M, Normal
from toys import Brightness, linear_map, noise, seeded

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.tilt import Tilt
from steer.tuning import FlowMapGrpo
from steer.tuning.flow_map_grpo import anchored

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
ALONE = {"kl": 0, "consistency": 0}
WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]


def prepared(objective, flow_map, base, tilt):
    objective.prepare(flow_map, base, tilt)
    objective.begin(flow_map, 0)
    return objective


def loss_of(objective, flow_map, base, reward, x0, cond=None, step=0, seed=3):
    tilt = Tilt(reward)
    prepared(objective, flow_map, base, tilt)
    return objective(flow_map, base, tilt, x0, cond, seeded(seed), step)


# --- the kernel ---------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_step_keeps_the_variance_of_a_gaussian(schedule):
    """N(0, v): the map scales by rho_a / rho_s, rho^2 = alpha^2 v + sigma^2."""
    v = 0.3
    t = torch.tensor([0.1, 0.4, 0.4, 0.9], dtype=torch.float64)
    anchor = torch.tensor([0.2, 0.41, 1.0, 1.0], dtype=torch.float64)
    scaled, sd = anchored(schedule, t, anchor)
    rho2_t, rho2_a = ((c.alpha**2 * v + c.sigma**2) for c in map(schedule, (t, anchor)))
    torch.testing.assert_close(scaled**2 * rho2_a + sd**2, rho2_t)


@pytest.mark.parametrize(("s", "t", "place"), [(0.3, 0.6, 1.0), (0.3, 0.6, 0.2), (0.6, 0.8, 0.5)])
def test_a_step_keeps_the_law_of_a_mixture(s, t, place):
    """The distribution function of x_t is that of p_t, within sampling error."""
    n = 40_000
    x1 = M.sample(n, seeded())
    x_s = M.schedule.interpolate(noise(n, 1), x1, s)
    at, anchor = torch.tensor([t], dtype=torch.float64), torch.tensor([t + place * (1 - t)])
    scaled, sd = anchored(M.schedule, at, anchor.double())
    x_t = scaled * M(x_s, s, float(anchor)) + sd * noise(n, 1, seed=5)
    std = (t**2 * M.std**2 + (1 - t) ** 2).sqrt()
    grid = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    below = torch.distributions.Normal(t * M.means[:, 0], std[:, 0]).cdf(grid) @ M.weights
    found = torch.searchsorted(x_t[:, 0].sort().values, grid[:, 0]) / n
    assert (found - below).abs().max() < 1.63 / math.sqrt(n)  # Kolmogorov, 1 %


def test_an_anchor_without_noise_is_refused():
    with pytest.raises(ValueError, match="anchor=0 makes every step deterministic"):
        FlowMapGrpo(anchor=0)


# --- the policy gradient ------------------------------------------------------------------------
def bump(x):
    return torch.exp(-0.5 * ((x[:, 0] - 1.2) / 0.7) ** 2)


def pathwise_slope(objective, m, reward, n):
    """d/dm of the expected reward of the stochastic steps, the last jump fixed, by their noise."""
    live, fixed = (ResidualMap(Normal(m), Linear()) for _ in range(2))
    times = torch.linspace(0, 1, objective.steps + 2, dtype=torch.float64)
    x, generator = noise(n, 1, seed=8), seeded(9)
    for s, t in pairwise(times[:-1]):
        anchor = t + objective.anchor * (1 - t)
        sd = ((1 - t) ** 2 - (t / anchor * (1 - anchor)) ** 2).sqrt()
        e = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = t / anchor * live(x, s, anchor) + sd * e
    expected = reward(fixed(x, times[-2], 1.0)).mean()
    return torch.autograd.grad(expected, live.network.m)[0].item()


@pytest.mark.parametrize("anchor", [1.0, 0.3])
@pytest.mark.parametrize("group", [4, 8])
def test_the_gradient_is_the_policy_gradient(anchor, group):
    n = 160_000
    objective = FlowMapGrpo(3, anchor, group, standardise=False, **ALONE)
    flow_map = ResidualMap(Normal(0.3), Linear())
    labels = torch.arange(n // group).repeat_interleave(group)
    loss = loss_of(objective, flow_map, flow_map, bump, noise(n, 1), labels)
    found = -torch.autograd.grad(loss.total, flow_map.network.m)[0].item()
    expected = pathwise_slope(objective, 0.3, bump, n)
    assert found == pytest.approx(expected, rel=0.05)


def test_standardised_groups_shrink_it_as_known():
    """For a linear reward of a Gaussian by E[std of G] / sigma = .798 at G = 4."""
    n, group = 160_000, 4
    objective = FlowMapGrpo(3, per_prompt=group, advantage_clip=10, **ALONE)
    flow_map = ResidualMap(Normal(0.3), Linear())
    labels = torch.arange(n // group).repeat_interleave(group)
    loss = loss_of(objective, flow_map, flow_map, lambda x: x[:, 0], noise(n, 1), labels)
    found = -torch.autograd.grad(loss.total, flow_map.network.m)[0].item()
    plain = pathwise_slope(objective, 0.3, lambda x: x[:, 0], n)  # the samples are N(.3, 1)
    shrunk = math.sqrt(2 / group) * math.gamma(group / 2) / math.gamma((group - 1) / 2)
    assert shrunk == pytest.approx(0.798, abs=1e-3)
    assert found / plain == pytest.approx(shrunk, rel=0.03)


# --- ratio and KL -------------------------------------------------------------------------------
def test_the_ratio_is_one_in_the_first_pass():
    flow_map = linear_map(WEIGHT)
    objective = FlowMapGrpo(**ALONE, standardise=False, ratio_clip=1e-9)
    loss = loss_of(objective, flow_map, linear_map(WEIGHT), lambda x: x.sum(1), noise(16))
    assert loss.terms["clipped"] == 0  # to 1e-9
    assert loss.terms["policy"].abs() < 1e-8  # - K mean(A)


def test_ratio_and_kl_are_those_of_the_normal_kernels():
    """In a second pass, at other weights, against torch.distributions, summed over dimensions."""
    tilt, base = Tilt(lambda x: x.sum(1)), linear_map([[0.1, 0.2], [0.0, 0.4]])
    old, flow_map = linear_map(WEIGHT), linear_map(WEIGHT)
    objective = FlowMapGrpo(2, 0.6, reuse=2, ratio_clip=1e9, kl=0.7, consistency=0)
    prepared(objective, flow_map, base, tilt)
    objective(flow_map, base, tilt, noise(16), None, seeded(), 0)
    with torch.no_grad():
        flow_map.network.weight += 0.05
    found = objective(flow_map, base, tilt, noise(16, seed=7), None, seeded(2), 1)
    kept = objective.kept
    policy = kl = 0.0
    for k, x_s in enumerate(kept.x_s.split(16)):
        s, t = k / 3, (k + 1) / 3
        a = t + 0.6 * (1 - t)
        sd = math.sqrt((1 - t) ** 2 - (t / a * (1 - a)) ** 2)
        kernel = [
            torch.distributions.Normal(t / a * f(x_s, s, a), sd) for f in (flow_map, old, base)
        ]
        new, before, reference = kernel
        x_t = before.mean + sd * kept.noise.split(16)[k]
        rho = (new.log_prob(x_t) - before.log_prob(x_t)).sum(1).exp()
        policy -= (rho * kept.advantage).mean()
        kl += torch.distributions.kl_divergence(new, reference).sum(1).mean()
    assert found.terms["policy"].item() == pytest.approx(policy.item(), rel=1e-5)
    assert found.terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert found.total.item() == pytest.approx((policy + 0.7 * kl).item(), rel=1e-5)
    assert policy.abs() > 1e-2
    # the rollout itself: each step starts where the one before ended
    a = 1 / 3 + 0.6 * 2 / 3
    sd = math.sqrt((2 / 3) ** 2 - (1 / 3 / a * (1 - a)) ** 2)
    second = kept.mean[:16] + sd * kept.noise[:16]
    torch.testing.assert_close(kept.x_s[16:], second, rtol=1e-6, atol=1e-6)


def test_in_parts_it_is_the_same():
    found = []
    for at_once in (None, 7):
        flow_map = linear_map(WEIGHT)
        objective = FlowMapGrpo(kl=0.5, at_once=at_once)
        base = linear_map([[0.1, 0.2], [0.0, 0.4]])
        loss = loss_of(objective, flow_map, base, lambda x: x.sum(1), noise(16))
        found.append(torch.autograd.grad(loss.total, flow_map.network.weight)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=0)


# --- what moves nothing, and what a step is ------------------------------------------------------
@pytest.mark.parametrize("standardise", [True, False])
def test_a_constant_reward_moves_nothing_and_an_offset_changes_nothing(standardise):
    def slope(reward):
        flow_map = linear_map(WEIGHT)
        objective = FlowMapGrpo(kl=0.5, consistency=0, standardise=standardise)
        loss = loss_of(objective, flow_map, linear_map(WEIGHT), reward, noise(16))
        return torch.autograd.grad(loss.total, flow_map.network.weight)[0]

    assert slope(lambda x: 0 * x[:, 0] + 0.1).abs().max() < 1e-9
    plain = slope(lambda x: x.sum(1))
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(slope(lambda x: x.sum(1) + 50), plain)


def test_the_map_loss_is_on_the_samples():
    """At an exact map of N(.3, 1) it is the noise of flow matching: half of it, not more."""
    flow_map = ResidualMap(Normal(0.3), Linear())
    loss = loss_of(FlowMapGrpo(kl=0), flow_map, flow_map, lambda x: x[:, 0], noise(20_000, 1))
    exact = GaussianMixture([[0.3]], 1.0)
    t = torch.rand(20_000, generator=seeded(), dtype=torch.float64)
    x0, x1 = noise(20_000, 1, seed=4), exact.sample(20_000, seeded(5))
    gap = x1 - x0 - exact.velocity(exact.schedule.interpolate(x0, x1, t), t)
    assert loss.terms["consistency"].item() == pytest.approx(gap.square().mean().item(), rel=0.05)


def test_images_with_labels_and_reuse():
    flow_map, base = (ResidualMap(Brightness(), Linear()) for _ in range(2))
    objective = FlowMapGrpo(2, per_prompt=4, reuse=2, at_once=8, ratio_clip=100)
    tilt = Tilt(lambda x: x.mean((1, 2, 3)))
    prepared(objective, flow_map, base, tilt)
    optimiser = torch.optim.SGD(flow_map.parameters(), 1e-4)
    x0 = torch.randn(8, 1, 28, 28, generator=seeded())
    labels = torch.tensor([3, 3, 3, 3, 8, 8, 8, 8])
    for step in (4, 5):
        objective.begin(flow_map, step)
        loss = objective(flow_map, base, tilt, x0, labels, seeded(step), step)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    gain = flow_map.network.gain.detach()
    assert (gain[[3, 8]] != 0).all()
    assert (gain[[0, 1, 2, 4, 5, 6, 7, 9]] == 0).all()
