"""Objectives at the exact flow map of a Gaussian: what must vanish there vanishes, and elsewhere it does not."""

import copy
import math

import pytest
import torch
from exact_map import MEAN, STD, exact_map, gradients, pairs

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.training import FlowMatching, Lagrangian, MeanFlow, Semigroup

EXACT = {"lagrangian": Lagrangian(), "midpoint": Semigroup(), "uniform": Semigroup(uniform=True)}
N = 20_000

every_identity = pytest.mark.parametrize("objective", EXACT.values(), ids=EXACT.keys())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def residuals(objective, flow_map, n=512, seed=0):
    x0, x1, s, t = pairs(n, seed)
    return objective(flow_map, x0, x1, s, t, None, generator(seed))


def assert_mean_is_zero(values):
    """Each column's mean within 4.5 of its standard errors."""
    error = values.std(0) / math.sqrt(len(values))
    assert (values.mean(0).abs() <= 4.5 * error).all(), (values.mean(0) / error).tolist()


def gradient_samples(objective, flow_map, chunks=64, n=512):
    """Independent draws of the gradient, (chunks, parameters)."""
    rows = [gradients(residuals(objective, flow_map, n, seed).mean(), flow_map) for seed in range(chunks)]
    return torch.stack([torch.cat([g.flatten() for g in row.values()]) for row in rows])


# The helper: the closed form is the flow map of that Gaussian


def test_the_exact_map_is_the_oracles():
    x0, _, s, t = pairs(64)
    law = GaussianMixture([list(MEAN)], STD, steps=400)
    torch.testing.assert_close(exact_map()(x0, s, t), law(x0, s, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(exact_map().velocity(x0, t), law.velocity(x0, t), rtol=1e-12, atol=1e-12)


# The identities: zero, with zero gradient, at every flow map that agrees with its own velocity


@every_identity
@pytest.mark.parametrize("changes", [{}, {"std": 1.7}, {"mean": (3.0, 0.0)}], ids=str)
def test_an_exact_map_has_no_residual(objective, changes):
    """Of whatever Gaussian: self-distillation asks only that the jumps follow the map's own diagonal."""
    flow_map = exact_map(**changes)
    loss = residuals(objective, flow_map)
    assert loss.shape == (512,)
    assert loss.max() < 1e-24
    assert all(g.abs().max() < 1e-11 for g in gradients(loss.sum(), flow_map).values())


@every_identity
@pytest.mark.parametrize("changes", [{"bend": 0.1}, {"lean": 0.1}], ids=str)
def test_a_bent_map_has_one(objective, changes):
    flow_map = exact_map(**changes)
    loss = residuals(objective, flow_map)
    assert loss.mean() > 1e-6
    assert gradients(loss.mean(), flow_map)[next(iter(changes))].abs() > 1e-4


@every_identity
@pytest.mark.parametrize("bend", [-1.0, -0.1, 0.1, 1.0])
def test_descent_straightens_the_bend(objective, bend):
    flow_map = exact_map(bend=bend)
    assert gradients(residuals(objective, flow_map).mean(), flow_map)["bend"] * bend > 0


@every_identity
def test_on_the_diagonal_there_is_nothing_to_learn(objective):
    x0, x1, s, _ = pairs(64)
    assert objective(exact_map(bend=1.0, lean=1.0), x0, x1, s, s, None, generator()).max() < 1e-24


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
@every_identity
def test_the_oracle_of_a_mixture_leaves_only_its_solver_error(objective, schedule):
    """Of order 4 in the step, so 8 in the loss: halving the step divides it by 256 in the limit, a quarter of that at least."""
    x0, x1, s, t = pairs(32)
    coarse, fine = (
        objective(oracle(schedule, steps), x0, x1, s, t, None, generator()).mean().item() for steps in (8, 16)
    )
    assert fine < coarse / 64


def oracle(schedule, steps):
    law = GaussianMixture([[2.0, 0.0], [-1.0, 1.5]], [0.8, 1.0], schedule=schedule, steps=steps)

    class Oracle(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            gap = (t - s)[:, None]
            return torch.where(gap == 0, law.velocity(x, t), (law(x, s, t) - x) / torch.where(gap == 0, 1.0, gap))

    return ResidualMap(Oracle(), schedule)


# MeanFlow and flow matching: noise in the target, so zero on average


def test_meanflow_gradient_vanishes_on_average_at_the_exact_map():
    assert_mean_is_zero(gradient_samples(MeanFlow(), exact_map()))


@pytest.mark.parametrize("name", ["mean", "std", "bend", "lean"])
@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_meanflow_descends_to_the_exact_map_from_data_alone(name, shift):
    """Moved off the truth, each parameter has a mean gradient that leads back, by six standard errors and more."""
    true = torch.tensor({"mean": MEAN, "std": STD, "bend": 0.0, "lean": 0.0}[name])
    flow_map = exact_map(**{name: (true + shift).tolist()})
    slopes = [gradients(residuals(MeanFlow(), flow_map, seed=k).mean(), flow_map)[name].mean() for k in range(16)]
    back = torch.stack(slopes) * shift
    assert back.mean() > 6 * back.std() / 4


def test_meanflow_on_the_diagonal_is_flow_matching():
    flow_map = exact_map(lean=0.2)
    x0, x1, s, _ = pairs(64)
    v = flow_map.velocity(Linear().interpolate(x0, x1, s), s)
    expected = (v - (x1 - x0)).square().mean(1)
    torch.testing.assert_close(MeanFlow()(flow_map, x0, x1, s, s, None, generator()), expected)


def test_flow_matching_costs_the_variance_at_the_exact_velocity():
    """Per dimension Var(I' | I) = std^2 / (t^2 std^2 + (1-t)^2), whose mean over t is std pi / 2."""
    flow_map, (x0, x1, _, _) = exact_map(), pairs(N)
    losses = torch.stack(
        [
            FlowMatching()(flow_map, x0[i], x1[i], None, generator(k), 0).total
            for k, i in enumerate(torch.arange(N).split(200))
        ]
    ).detach()
    assert_mean_is_zero(losses[:, None] - STD * math.pi / 2)


def test_flow_matching_gradient_vanishes_on_average_at_the_exact_velocity():
    def rows(flow_map):
        for k in range(64):
            x0, x1, _, _ = pairs(256, seed=k)
            found = gradients(FlowMatching()(flow_map, x0, x1, None, generator(k), 0).total, flow_map)
            yield torch.stack((*found["mean"], found["std"], found["lean"]))

    assert_mean_is_zero(torch.stack(list(rows(exact_map(bend=1.0)))))
    wrong = torch.stack(list(rows(exact_map(lean=0.3))))
    assert (wrong.mean(0).abs() > 6 * wrong.std(0) / 8).any()


def test_flow_matching_never_sees_the_jumps():
    flow_map, (x0, x1, _, _) = exact_map(bend=1.0), pairs(64)
    assert gradients(FlowMatching()(flow_map, x0, x1, None, generator(), 0).total, flow_map)["bend"] == 0


# Where gradients stop: each objective against its two-map form, with a frozen copy of the map as the teacher


def two_map_form(objective, student, teacher, x0, x1, s, t):
    """The same residual, written with finite differences and a teacher that takes no gradient."""
    x, v, h = (1 - s)[:, None] * x0 + s[:, None] * x1, x1 - x0, 1e-5
    gap = (t - s)[:, None]
    if isinstance(objective, Lagrangian):
        d_t = (student(x, s, t + h) - student(x, s, t - h)) / (2 * h)
        return d_t - teacher.velocity(teacher(x, s, t), t)
    u = student.average_velocity(x, s, t)
    if isinstance(objective, MeanFlow):
        ahead, behind = (teacher.average_velocity(x + k * v, s + k, t) for k in (h, -h))
        return u - (v + gap * (ahead - behind) / (2 * h))
    r = (s + t) / 2
    first = teacher.average_velocity(x, s, r)
    return u - (first + teacher.average_velocity(teacher(x, s, r), r, t)) / 2


@pytest.mark.parametrize("objective", [Lagrangian(), MeanFlow(), Semigroup()], ids=lambda o: type(o).__name__)
def test_gradients_stop_where_the_docstring_says(objective):
    student = exact_map(std=0.9, bend=0.4, lean=0.2)
    teacher = copy.deepcopy(student).requires_grad_(False)
    x0, x1, s, t = pairs(128)
    expected = two_map_form(objective, student, teacher, x0, x1, s, t).square().mean(1)
    found = objective(student, x0, x1, s, t, None, generator())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    by_hand = gradients(expected.mean(), student)
    for name, gradient in gradients(found.mean(), student).items():
        torch.testing.assert_close(gradient, by_hand[name], rtol=1e-6, atol=1e-8)


# What they ask of their inputs


@pytest.mark.parametrize("objective", [*EXACT.values(), MeanFlow()], ids=[*EXACT, "meanflow"])
def test_samples_do_not_see_each_other(objective):
    flow_map, (x0, x1, s, t) = exact_map(bend=0.4, lean=0.2), pairs(6)
    if isinstance(objective, Semigroup):
        objective = Semigroup()  # gamma is drawn for the batch
    together = objective(flow_map, x0, x1, s, t, None, generator())
    alone = [objective(flow_map, *(v[i : i + 1] for v in (x0, x1, s, t)), None, generator()) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("objective", [Lagrangian(), MeanFlow(), Semigroup()], ids=lambda o: type(o).__name__)
def test_the_condition_reaches_every_evaluation(objective):
    class Told(torch.nn.Module):
        """The exact map, which fails when it is not told its own labels."""

        def __init__(self):
            super().__init__()
            self.exact = exact_map().network

        def forward(self, x, s, t, cond=None):
            assert cond.tolist() == list(range(len(x)))
            return self.exact(x, s, t)

    x0, x1, s, t = pairs(6)
    flow_map = ResidualMap(Told(), Linear())
    objective(flow_map, x0, x1, s, t, torch.arange(6), generator()).mean().backward()
    FlowMatching()(flow_map, x0, x1, torch.arange(6), generator(), 0).total.backward()
