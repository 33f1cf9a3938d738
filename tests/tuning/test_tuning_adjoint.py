"""Adjoint Matching: where it rests, and its chain, adjoints and memory."""

from itertools import pairwise

import pytest
import torch
from selection import slow_but
from toys import noise, seeded

from rewards import Quadratic
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving, expand
from steer.tilt import Tilt
from steer.tuning import AdjointMatching
from steer.tuning.adjoint_matching import through_base

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
K, CENTRE = 1.5, 1.0  # on N(0, 1), the tilt is N(K CENTRE / (1 + K), 1 / (1 + K))
REWARD = Quadratic([CENTRE], K)
SCHEDULES = (Linear(), Trigonometric(), VariancePreserving())


def gaussian_velocity(schedule, x, t, mean, std):
    """The velocity of N(mean, std^2) along a schedule."""
    alpha, sigma, d_alpha, d_sigma = (expand(c, x) for c in schedule.coefficients(t))
    variance = alpha**2 * std**2 + sigma**2
    slope = (alpha * d_alpha * std**2 + sigma * d_sigma) / variance
    return d_alpha * mean + slope * (x - alpha * mean)


class Between(torch.nn.Module):
    """The velocity of N(0, 1) plus a times its difference to that of the tilt."""

    def __init__(self, a, schedule):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.schedule = schedule

    def forward(self, x, s, t, cond=None):
        base = gaussian_velocity(self.schedule, x, s, 0.0, 1.0)
        tilt = gaussian_velocity(self.schedule, x, s, K * CENTRE / (1 + K), (1 + K) ** -0.5)
        return base + self.a * (tilt - base)


def between(a, schedule):
    return ResidualMap(Between(a, schedule), schedule)


def excess(a, steps, schedule):
    """How far the loss, at states that the map at a visits, would move it."""
    objective = AdjointMatching(steps, states=None, off_weight=0)
    base, tilt = between(0.0, schedule), Tilt(REWARD)
    with torch.no_grad():
        kept = objective.collect(between(a, schedule), base, tilt, noise(6000, 1), None, seeded(3))
    slopes = []
    for place in (0.0, 1.0):
        flow_map = between(place, schedule)
        loss = objective.loss(flow_map, base, tilt, kept, seeded(4), 0)
        slopes.append(torch.autograd.grad(loss.total, flow_map.network.a)[0].item())
    return slopes[0] / (slopes[0] - slopes[1]) - a


@pytest.mark.parametrize("schedule", slow_but(["steer.Linear()"], SCHEDULES, map(repr, SCHEDULES)))
def test_it_rests_at_the_tilt_as_the_steps_become_small(schedule):
    """The place where training stops, and that its distance from 1 falls as 1 / steps."""
    places = []
    for steps in (60, 120):
        low, high = excess(0.9, steps, schedule), excess(1.05, steps, schedule)
        places.append(0.9 + 0.15 * low / (low - high))
    assert places[1] == pytest.approx(1.0, abs=0.05)
    assert 2 * places[1] - places[0] == pytest.approx(1.0, abs=0.02)


def test_a_constant_reward_is_nothing_to_learn():
    """The adjoint is zero: at the base the loss is zero for every sample."""
    base = between(0.0, Linear())
    objective = AdjointMatching(10, off_weight=0)
    tilt = Tilt(lambda x: 0 * x[:, 0] + 7)
    loss = objective(between(0.0, Linear()), base, tilt, noise(50, 1), None, seeded(), 0)
    assert loss.total == 0


def test_the_adjoint_is_the_gradient_through_the_base():
    """Against a finite difference of the mean of the next state."""
    base = between(0.4, Linear())
    x, adjoint = noise(1, 1), torch.full((1, 1), 1.7, dtype=torch.float64)

    def ahead(x, s=0.4, t=0.6):
        ends = base.endpoints(x, s)
        of_clean, of_noise, _ = base.schedule.ancestral(s, t)
        return of_clean * ends.clean + of_noise * ends.noise

    _, back = through_base(base, x, 0.4, 0.6, None, adjoint)
    with torch.no_grad():
        slope = (ahead(x + 1e-5) - ahead(x - 1e-5)) / 2e-5
    torch.testing.assert_close(back, 1.7 * slope, rtol=1e-7, atol=0)


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric()], ids=repr)
def test_the_chain_is_the_one_that_forgets_its_noise(schedule):
    """With a single clean sample every step has the marginals of the path, and x_1 forgets x_0."""
    x0 = noise(300_000, 1)
    x, generator = x0, seeded(2)
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    for s, t in pairwise(times):
        of_clean, of_noise, spread = schedule.ancestral(s, t)
        alpha, sigma, _, _ = schedule(s)
        n = (x - alpha * 2.5) / sigma
        x = of_clean * 2.5 + of_noise * n
        x = x + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        alpha, sigma, _, _ = schedule(t)
        assert x.mean().item() == pytest.approx(2.5 * float(alpha), abs=0.02)
        assert x.std().item() == pytest.approx(float(sigma), abs=0.01)
        if t == times[1]:
            assert abs(torch.corrcoef(torch.cat((x, x0), 1).T)[0, 1]) < 0.02


def test_parts_of_the_states_change_memory_and_not_the_gradient():
    """The same loss and gradient, state by state or all at once."""
    found = []
    for at_once in (None, 7):
        flow_map = between(0.3, Linear())
        objective = AdjointMatching(8, states=3, at_once=at_once, off_weight=0.5)
        loss = objective(
            flow_map, between(0.0, Linear()), Tilt(REWARD), noise(9, 1), None, seeded(), 0
        )
        found.append((loss.total, torch.autograd.grad(loss.total, flow_map.network.a)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_samples_are_kept_and_taken_up_again():
    """A second objective with what the first one kept goes on alike."""
    base, tilt = between(0.0, Linear()), Tilt(REWARD)
    first, second = (AdjointMatching(6, reuse=3, off_weight=0) for _ in range(2))
    flow_map = between(0.2, Linear())
    start = first(flow_map, base, tilt, noise(5, 1), None, seeded(1), 0).total
    second.keep(first.kept_state(), torch.device("cpu"))
    other = noise(5, 1, seed=9)
    losses = [o(flow_map, base, tilt, other, None, seeded(2), 1).total for o in (first, second)]
    assert losses[0] == losses[1] == start
    assert first(flow_map, base, tilt, other, None, seeded(2), 3).total != start
