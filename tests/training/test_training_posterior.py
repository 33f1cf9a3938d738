"""Posterior and VelocityMatching: their arguments, their minimum, and maps that learn to draw."""

import math

import pytest
import torch
from exact_map import exact_map, gradients
from hidden import ExactInner

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead.glass_flow import GlassFlow
from steer.maps.posterior import PosteriorMap
from steer.metrics.energy_distance import energy_distance
from steer.networks import ContextCondition, Mlp, WithContext
from steer.training.base import Loss, Objective
from steer.training.flow_matching import FlowMatching
from steer.training.joint import Joint
from steer.training.lagrangian import Lagrangian
from steer.training.posterior import Posterior
from steer.training.semigroup import Semigroup
from steer.training.times import LogitNormal
from steer.training.velocity_matching import VelocityMatching

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def mixture(schedule=None):
    std = torch.tensor([[0.3, 0.9], [0.7, 0.5], [1.1, 0.4]], dtype=torch.float64)
    return GaussianMixture(
        [[2.0, -1.0], [0.5, 1.5], [-2.0, 0.0]], std, [1.0, 2.0, 3.0], schedule, steps=16
    )


class Note(Objective):
    """Keeps what it is given."""

    def forward(self, flow_map, x0, x1, cond, generator, step):
        self.given = flow_map, x0, x1, cond, step
        return Loss(x1.sum(), {"diagonal": x1.sum().detach()})


def of_network(network):
    """A ResidualMap on the straight path whose average velocity is network(x, s, t, cond)."""

    class Told(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return network(x, s, t, cond)

    return ResidualMap(Told(), Linear())


# What is handed on


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_objective_is_given_what_is_hidden_and_its_context(schedule):
    note = Note()
    law = mixture(schedule)
    labels = torch.arange(2000) % 3
    x0, x1 = normal(2000, 2), law.sample(2000, generator(1))
    flow_map = exact_map()
    loss = Posterior(note, schedule)(flow_map, x0, x1, labels, generator(2), 7)
    given, e, y, context, step = note.given
    assert given is flow_map
    assert step == 7
    assert torch.equal(e, x0)
    assert torch.equal(context.cond, labels)
    assert context.schedule == schedule
    assert loss.total == y.sum()
    torch.testing.assert_close(context.clean(y), x1, rtol=1e-10, atol=1e-10)
    alpha, sigma, _, _ = (a[:, None] for a in schedule(context.t))
    fresh = (context.x_t - alpha * x1) / sigma  # the outer noise: normal, and none of the inner one
    assert fresh.mean().abs() < 4.5 / math.sqrt(fresh.numel())
    assert (fresh.var() - 1).abs() < 4.5 * math.sqrt(2 / fresh.numel())
    assert (fresh * x0).mean().abs() < 4.5 / math.sqrt(fresh.numel())


def test_times_follow_their_law_and_all_chance_is_the_generators():
    x0, x1 = normal(5000, 2), mixture().sample(5000, generator(1))
    contexts = []
    for seed in (1, 1, 2):
        objective = Posterior(Note(), times=LogitNormal(1.0, 0.5))
        objective(exact_map(), x0, x1, None, generator(seed), 0)
        contexts.append(objective.objective.given[3])
    assert torch.equal(contexts[0].x_t, contexts[1].x_t)
    assert not torch.equal(contexts[0].x_t, contexts[2].x_t)
    logits = torch.logit(contexts[0].t)
    assert (logits.mean() - 1).abs() < 4.5 * 0.5 / math.sqrt(5000)


def test_the_joint_objective_cuts_the_context_with_the_batch():
    """Every network call gets as many samples as it is asked about, and their own."""
    x0, x1 = normal(8, 2), mixture().sample(8, generator(1))
    calls = []

    def network(x, s, t, cond):
        calls.append((len(x), len(cond), tuple(cond.cond)))
        return torch.zeros_like(x)

    Posterior(Joint(FlowMatching(), Semigroup(), 0.75))(
        of_network(network), x0, x1, list("abcdefgh"), generator(), 0
    )
    assert calls[0] == (6, 6, tuple("abcdef"))
    assert set(calls[1:]) == {(2, 2, ("g", "h"))}


# Where the minimum is


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_flow_matching_is_least_at_the_velocity_of_the_posterior(schedule):
    """A lean of the exact velocity either way raises the loss by its square, within noise."""
    law = mixture(schedule)
    n = 20_000
    x0 = normal(n, 2)
    x1 = law.sample(n, generator(1))
    flow = GlassFlow(law)
    objective = Posterior(FlowMatching(), schedule)

    def loss(lean):
        network = of_network(
            lambda x, s, t, cond: flow.velocity(x, t, cond) + lean * torch.cos(x + cond.x_t)
        )
        return objective(network, x0, x1, None, generator(2), 0).total

    up = loss(0.5)
    here = loss(0.0)
    down = loss(-0.5)
    slope = (up - down).abs()
    curve = up + down - 2 * here
    assert slope < 0.1 * curve
    assert 0.15 < curve < 0.5  # twice .25 E cos^2


@pytest.mark.parametrize("off", [Lagrangian(), Semigroup()], ids=lambda o: type(o).__name__)
def test_the_exact_inner_map_has_no_residual_off_the_diagonal(off):
    """Jumps of the closed-form posterior flow as a network: zero up to the oracle's solver."""
    law = mixture()
    n = 6
    exact = ExactInner(law, steps=16)

    def network(x, s, t, cond):
        gap = (t - s)[:, None]
        jump = (exact(x, s, t, cond) - x) / torch.where(gap == 0, 1.0, gap)
        return torch.where(gap == 0, exact.velocity(x, t, cond), jump)

    x0, x1 = normal(n, 2), law.sample(n, generator(1))
    loss = Posterior(Joint(FlowMatching(), off, 0.01))(
        of_network(network), x0, x1, None, generator(2), 0
    )
    assert loss.terms["off_diagonal"] < 1e-4


def test_velocity_matching_is_zero_at_its_teacher_and_nowhere_else():
    x0, x1 = normal(2, 64, 2)
    objective = VelocityMatching(exact_map(bend=1.0))
    teacher = exact_map()
    assert objective(teacher, x0, x1, None, generator(), 0).total < 1e-24
    found = objective(exact_map(lean=0.3), x0, x1, None, generator(), 0)
    assert found.total > 1e-3
    assert found.terms["diagonal"] == found.total
    slope = gradients(found.total, leaning := exact_map(lean=0.3))
    assert all(g.abs().max() == 0 for g in slope.values())  # of another map
    again = objective(leaning, x0, x1, None, generator(), 0).total
    assert gradients(again, leaning)["lean"] > 0


def test_velocity_matching_has_the_gradient_of_flow_matching_without_its_noise():
    """At the same points and times: equal means, and a variance many times smaller."""
    student = exact_map(std=0.9, lean=0.2)
    teacher = exact_map()
    rows = {}
    for objective in (FlowMatching(), VelocityMatching(teacher)):
        rows[type(objective)] = torch.stack(
            [
                gradients(
                    objective(student, *_pairs(256, k), None, generator(k), 0).total, student
                )["lean"]
                for k in range(64)
            ]
        )
    data = rows[FlowMatching]
    taught = rows[VelocityMatching]
    assert (data - taught).mean().abs() < 4.5 * (data - taught).std() / 8
    assert taught.var() < data.var() / 4


def _pairs(n, seed):
    x0, z = normal(2, n, 2, seed=seed)
    return x0, torch.tensor([1.0, -0.5], dtype=torch.float64) + 0.6 * z


def test_a_teacher_on_another_path_is_refused():
    x0, x1 = normal(2, 4, 2)
    with pytest.raises(ValueError, match=r"Trigonometric\(\).*Linear\(\).*Rescheduled"):
        VelocityMatching(mixture(Trigonometric()))(exact_map(), x0, x1, None, generator(), 0)


# Maps that learn to draw


def untrained(width=64):
    torch.manual_seed(0)
    network = Mlp(2, width, 3, ContextCondition(width), data_std=1.5, beside=2)
    return ResidualMap(WithContext(network), Linear())


def train(inner, objective, law, steps, batch=256, lr=2e-3):
    optimizer = torch.optim.Adam(inner.parameters(), lr)
    g = generator()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 - step / steps) ** 0.5
        x1 = law.sample(batch, g).float()
        loss = objective(inner, torch.randn(batch, 2, generator=g), x1, None, g, step)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(inner.parameters(), 1.0)
        optimizer.step()
    return inner


def misses(inner, law, t, points=6, n=400):
    """Energy distance of one-jump draws to the exact posterior, in units of that of exact draws.

    The mean over points.
    """
    x = law.schedule.interpolate(normal(points, 2, seed=5), law.sample(points, generator(5)), t)
    drawn = (
        PosteriorMap(law, inner)
        .posterior_guesses(x.float(), t, n, generator())
        .x1.double()
        .transpose(0, 1)
    )
    real, other = (law.posterior_sample(x, t, n, generator(k)) for k in (1, 2))
    far = torch.stack([energy_distance(a, b) for a, b in zip(drawn, real, strict=True)]).mean()
    floor = torch.stack(
        [energy_distance(a, b).abs() for a, b in zip(other, real, strict=True)]
    ).mean()
    return (far / floor).item()


RECIPES = {  # and how many times the sampling floor each comes to
    "from scratch, lagrangian": (lambda law: Joint(FlowMatching(), Lagrangian(), 0.75), 8),
    "from scratch, semigroup": (lambda law: Joint(FlowMatching(), Semigroup(), 0.75), 12),
    "from glass": (lambda law: Joint(VelocityMatching(GlassFlow(law)), Lagrangian(), 0.5), 2),
}


@pytest.mark.slow
def test_a_few_hundred_steps_teach_a_map_to_draw():
    law = mixture()
    times = (0.05, 0.3, 0.6)
    inner = untrained()
    before = [misses(inner, law, t) for t in times]
    train(inner, Posterior(RECIPES["from glass"][0](law)), law, 300)
    after = [misses(inner, law, t) for t in times]
    assert all(a < b / 3 for a, b in zip(after, before, strict=True)), (before, after)
    assert max(after) < 30


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_thousand_steps_bring_it_near_the_sampling_floor(recipe):
    """Within twice the floor if distilled from GLASS; from scratch the data's noise adds to it."""
    objective, multiple = RECIPES[recipe]
    law = mixture()
    inner = untrained(width=128)
    train(inner, Posterior(objective(law)), law, 4000, batch=512)
    after = [misses(inner, law, t) for t in (0.05, 0.3, 0.6, 0.9)]
    assert max(after) < multiple, after
