"""Rollouts of published methods: gradients by hand, values, and costs."""

import pytest
import torch
from test_tuning_diagonal import Normal
from toys import linear_map, noise, seeded

from rewards import Linear as LinearReward
from steer import counting
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric
from steer.tilt import Tilt
from steer.tuning import Direct
from steer.tuning.rollouts import EulerSteps, LateStep, TwoLeaps

WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
W = torch.tensor(WEIGHT, dtype=torch.float64)
A = torch.tensor([1.0, -2.0], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def gradient(rollout, flow_map, x0, seed=1):
    """-d mean a . z / dW by the direct objective."""
    objective = Direct(rollout, consistency=0.0)
    loss = objective(flow_map, flow_map, Tilt(LinearReward(A)), x0, None, seeded(seed), 0)
    return torch.autograd.grad(loss.total, flow_map.network.weight)[0]


def along(x0, steps):
    """The states of `steps` Euler steps from x0, (steps + 1, B, 2)."""
    p = EYE + W / steps
    return torch.stack([x0 @ torch.linalg.matrix_power(p, k).T for k in range(steps + 1)])


def cost(rollout, n=4):
    with counting.count() as tally:
        rollout(linear_map(WEIGHT), noise(n), None, seeded()).z.sum().backward()
    return tally.network_forward / n, tally.network_backward / n


# --- DRaFT-LV and AlignProp ---------------------------------------------------------------------
@pytest.mark.parametrize("schedule", [Linear(), Trigonometric()])
def test_renoised_last_steps_by_hand(schedule):
    """z = (1 + W / N) x, x the last state or the sample with the noise of its time anew."""
    flow_map = linear_map(WEIGHT)
    flow_map.schedule = schedule
    x0 = noise(5)
    found = gradient(EulerSteps(4, renoised=3), flow_map, x0)
    states = along(x0, 4)
    fresh = torch.randn(15, 2, generator=seeded(), dtype=torch.float64)
    alpha, sigma, _, _ = schedule(0.75)
    starts = torch.cat((states[3], alpha * states[4].repeat(3, 1) + sigma * fresh))
    assert torch.allclose(found, -torch.outer(A, starts.mean(0)) / 4)


def test_renoised_samples_keep_their_conditions_and_are_not_what_the_map_is_taught():
    seen = []

    def reward(x, cond):
        seen.append((len(x), cond))
        return x.sum(1)

    class Taught(torch.nn.Module):
        def forward(self, flow_map, x0, x1, cond, generator, step):
            seen.append((len(x1), cond, x1.requires_grad))
            return FakeLoss(x1.sum() * 0)

    class FakeLoss:
        def __init__(self, total):
            self.total = total

    objective = Direct(EulerSteps(2, renoised=2))
    objective.objective = Taught()
    flow_map = linear_map(WEIGHT)
    objective(flow_map, flow_map, Tilt(reward), noise(2), ["a", "b"], seeded(), 0)
    assert seen == [(6, ["a", "b"] * 3), (2, ["a", "b"], False)]


def test_a_random_truncation_is_uniform_and_each_is_its_own():
    x0 = noise(5)
    fixed = [gradient(EulerSteps(6, k), linear_map(WEIGHT), x0) for k in (1, 2, 3)]
    times = torch.zeros(3)
    for seed in range(90):
        found = gradient(EulerSteps(6, 3, random=True), linear_map(WEIGHT), x0, seed)
        same = torch.tensor([torch.equal(found, one) for one in fixed])
        assert same.sum() == 1
        times += same
    assert (times - 30).abs().max() < 4 * (90 * 2 / 9) ** 0.5


# --- ReFL's rollout -----------------------------------------------------------------------------
def test_a_late_step_is_one_of_the_last_and_ends_at_the_posterior_mean():
    """On the linear path E[x1 | x_t] = x_t + (1 - t) u; the steps go on to the whole sample."""
    flow_map = linear_map(WEIGHT)
    x0 = noise(400)
    rolled = LateStep(8, late=3)(flow_map, x0, None, seeded())
    states = along(x0, 8)
    assert torch.allclose(rolled.samples, states[8])
    means = torch.stack([x + (1 - k / 8) * x @ W.T for k, x in enumerate(states[:8])])
    at = (means - rolled.z.detach()).abs().amax(2) < 1e-9
    assert (at.sum(0) == 1).all()
    counts = at.sum(1)
    assert counts[:5].sum() == 0
    assert (counts[5:] - 400 / 3).abs().max() < 4 * (400 * 2 / 9) ** 0.5


def test_the_gradient_of_a_late_step_is_that_of_one_velocity():
    """d E[x1 | x_t] / dW = (1 - t) x_t^T with x_t held."""
    x0 = noise(7)
    found = gradient(LateStep(8, late=1), linear_map(WEIGHT), x0)
    assert torch.allclose(found, -torch.outer(A, along(x0, 8)[7].mean(0)) / 8)


# --- two leaps ----------------------------------------------------------------------------------
@pytest.mark.parametrize("nested", [1.0, 0.3, 0.0])
def test_two_leaps_by_hand(nested):
    """d z = (t - s) dW x_s + (1 - t) (dW x_t + nested W (t - s) dW x_s), states of the steps."""
    x0 = noise(6)
    flow_map = linear_map(WEIGHT)
    rollout = TwoLeaps(5, nested)
    found = gradient(rollout, flow_map, x0)
    states = along(x0, 5)
    rolled = rollout(flow_map, x0, None, seeded())
    assert torch.allclose(rolled.z, states[5])
    s, t = rolled.moves[0].s, rolled.moves[1].s
    assert (s < t).all()
    every = torch.arange(6)
    x_s, x_t = (states[(5 * r).round().long(), every] for r in (s, t))
    s, t = s[:, None, None], t[:, None, None]
    straight = torch.einsum("i,bj->bij", A, x_s)
    through = torch.einsum("i,bj->bij", W.T @ A, x_s)
    second = torch.einsum("i,bj->bij", A, x_t)
    by_hand = (t - s) * straight + (1 - t) * (second + nested * (t - s) * through)
    assert torch.allclose(found, -by_hand.mean(0))


def test_two_leaps_of_an_exact_map_have_the_whole_gradient():
    """On N(m, 1), X_{s,1}(x) = m + (x - s m) / rho_s: whatever t lies between."""
    flow_map = ResidualMap(Normal(0.4), Linear())
    rolled = TwoLeaps(10)(flow_map, noise(50, 1), None, seeded())
    s = rolled.moves[0].s
    rho = (s**2 + (1 - s) ** 2).sqrt()
    found = [torch.autograd.grad(z, flow_map.network.m, retain_graph=True)[0] for z in rolled.z]
    assert torch.allclose(torch.stack(found), 1 - s / rho)


def test_leaps_and_their_energy_begin_at_every_time():
    """Every pair of the N times, and a change of u by 1 has energy (t - s) + (1 - t) = 1 - s."""
    flow_map, base = (ResidualMap(Normal(m), Linear()) for m in (0.0, 1.0))
    rollout = TwoLeaps(3)
    rolled = rollout(flow_map, noise(3000, 1), None, seeded())
    s, t = rolled.moves[0].s, rolled.moves[1].s
    pairs = {(int(3 * a + 0.5), int(3 * b + 0.5)) for a, b in zip(s, t, strict=True)}
    assert pairs == {(0, 1), (0, 2), (1, 2)}
    found = rollout.energy(flow_map, base, rolled, slice(None), None, seeded())
    change = [
        (end - start) * (m.u - base.average_velocity(m.x, start, end)).square().sum(1)
        for m, start, end in zip(rolled.moves, (s, t), (t, torch.ones_like(t)), strict=True)
    ]
    assert torch.allclose(found, sum(change))


def test_rollouts_cost_what_they_say():
    assert cost(EulerSteps(6, renoised=2)) == (8, 3)
    assert cost(LateStep(8, late=3)) == (9, 1)
    assert cost(TwoLeaps(5)) == (7, 2)


@pytest.mark.parametrize(
    "build",
    [
        lambda: EulerSteps(4, renoised=-1),
        lambda: LateStep(4, late=5),
        lambda: TwoLeaps(1),
        lambda: TwoLeaps(4, nested=1.5),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match=r"renoised|late|steps|nested"):
        build()
