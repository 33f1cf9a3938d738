"""Training objectives at the exact flow map of a Gaussian, and elsewhere."""

import copy
import math

import pytest
import torch
from every import SMALL, claiming, concrete, numbered
from exact_map import MEAN, STD, exact_map, generator, gradients, pairs, residual
from selection import slow_but

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.training import (
    AlongFlow,
    AlphaFlow,
    AnnealedStride,
    AverageEulerian,
    AverageLagrangian,
    Consistency,
    Eulerian,
    FiniteDifference,
    FixedAlpha,
    FlowMapMatching,
    FlowMatching,
    GridStride,
    ImprovedMeanFlow,
    Lagrangian,
    MeanFlow,
    MomentMatching,
    Pairs,
    Semigroup,
    Target,
    TwoLegs,
)
from steer.training.derivatives import Differential

EXACT = claiming("exact")
N = 20_000

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
every_identity = pytest.mark.parametrize("objective", EXACT, ids=numbered(EXACT))
every_objective = pytest.mark.parametrize("objective", SMALL, ids=numbered(SMALL))


def residuals(objective, flow_map, n=512, seed=0):
    return residual(objective, flow_map, pairs(n, seed), seed=seed)


def assert_mean_is_zero(values):
    """Each column's mean within 4.5 of its standard errors."""
    error = values.std(0) / math.sqrt(len(values))
    assert (values.mean(0).abs() <= 4.5 * error).all(), (values.mean(0) / error).tolist()


def gradient_samples(objective, flow_map, chunks=64, n=512):
    """Independent draws of the gradient, (chunks, parameters)."""
    rows = [
        gradients(residuals(objective, flow_map, n, seed).mean(), flow_map)
        for seed in range(chunks)
    ]
    return torch.stack([torch.cat([g.flatten() for g in row.values()]) for row in rows])


# The closed form is the flow map of that Gaussian


def test_the_exact_map_is_the_oracles():
    x0, _, s, t = pairs(64)
    law = GaussianMixture([list(MEAN)], STD, steps=400)
    torch.testing.assert_close(exact_map()(x0, s, t), law(x0, s, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        exact_map().velocity(x0, t), law.velocity(x0, t), rtol=1e-12, atol=1e-12
    )


# The identities: zero, with zero gradient, at every flow map that agrees with its own velocity


@every_identity
@pytest.mark.parametrize("changes", [{}, {"std": 1.7}, {"mean": (3.0, 0.0)}], ids=str)
def test_an_exact_map_has_no_residual(objective, changes):
    """Of any Gaussian: self-distillation only needs jumps that follow the map's own diagonal."""
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
def test_descent_reduces_the_bend(objective, bend):
    flow_map = exact_map(bend=bend)
    assert gradients(residuals(objective, flow_map).mean(), flow_map)["bend"] * bend > 0


@every_identity
def test_on_the_diagonal_there_is_nothing_to_learn(objective):
    x0, x1, s, _ = pairs(64)
    assert residual(objective, exact_map(bend=1.0, lean=1.0), (x0, x1, s, s)).max() < 1e-24


@pytest.mark.parametrize(
    "schedule",
    slow_but(["steer.Linear()"], SCHEDULES, map(repr, SCHEDULES)),
)
@every_identity
def test_the_oracle_of_a_mixture_leaves_only_its_solver_error(objective, schedule):
    """Of order 4 in the step, so 8 in the loss: halving the step divides it by 256 in the limit."""
    x0, x1, s, t = pairs(32)
    coarse, fine = (
        residual(objective, oracle(schedule, steps), (x0, x1, s, t)).mean().item()
        for steps in (8, 16)
    )
    assert fine < coarse / 64


def oracle(schedule, steps):
    law = GaussianMixture([[2.0, 0.0], [-1.0, 1.5]], [0.8, 1.0], schedule=schedule, steps=steps)

    class Oracle(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            gap = (t - s)[:, None]
            return torch.where(
                gap == 0, law.velocity(x, t), (law(x, s, t) - x) / torch.where(gap == 0, 1.0, gap)
            )

    return ResidualMap(Oracle(), schedule)


# MeanFlow and flow matching: noise in the target, so zero on average


def test_meanflow_gradient_vanishes_on_average_at_the_exact_map():
    assert_mean_is_zero(gradient_samples(MeanFlow(), exact_map()))


@pytest.mark.parametrize("name", ["mean", "std", "bend", "lean"])
@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_meanflow_descends_to_the_exact_map_from_data_alone(name, shift):
    """Away from it, each parameter's mean gradient leads back, by six standard errors and more."""
    true = torch.tensor({"mean": MEAN, "std": STD, "bend": 0.0, "lean": 0.0}[name])
    flow_map = exact_map(**{name: (true + shift).tolist()})
    slopes = [
        gradients(residuals(MeanFlow(), flow_map, seed=k).mean(), flow_map)[name].mean()
        for k in range(16)
    ]
    back = torch.stack(slopes) * shift
    assert back.mean() > 6 * back.std() / 4


def test_meanflow_on_the_diagonal_is_flow_matching():
    flow_map = exact_map(lean=0.2)
    x0, x1, s, _ = pairs(64)
    v = flow_map.velocity(Linear().interpolate(x0, x1, s), s)
    expected = (v - (x1 - x0)).square().mean(1)
    torch.testing.assert_close(residual(MeanFlow(), flow_map, (x0, x1, s, s)), expected)


def test_flow_matching_costs_the_variance_at_the_exact_velocity():
    """Var(I' | I) = std^2 / (t^2 std^2 + (1-t)^2) per dimension, of mean std pi / 2 over t."""
    flow_map = exact_map()
    x0, x1, _, _ = pairs(N)
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
            found = gradients(
                FlowMatching()(flow_map, x0, x1, None, generator(k), 0).total, flow_map
            )
            yield torch.stack((*found["mean"], found["std"], found["lean"]))

    assert_mean_is_zero(torch.stack(list(rows(exact_map(bend=1.0)))))
    wrong = torch.stack(list(rows(exact_map(lean=0.3))))
    assert (wrong.mean(0).abs() > 6 * wrong.std(0) / 8).any()


def test_flow_matching_never_sees_the_jumps():
    flow_map = exact_map(bend=1.0)
    x0, x1, _, _ = pairs(64)
    assert (
        gradients(FlowMatching()(flow_map, x0, x1, None, generator(), 0).total, flow_map)["bend"]
        == 0
    )


# Consistency, alpha-Flow: the Eulerian identity at a finite distance


def gradient_of(objective, flow_map, drawn, weight=1.0, **more):
    return gradients((weight * residual(objective, flow_map, drawn, **more)).mean(), flow_map)


def assert_same_gradient(found, expected, tolerance):
    """Within a fraction of the whole gradient's length."""
    a, b = (torch.cat([g.flatten() for g in gradient.values()]) for gradient in (found, expected))
    assert (a - b).norm() < tolerance * b.norm(), (a, b)


@pytest.mark.parametrize(
    ("step", "limit"), [(AlongFlow(), AverageEulerian()), (None, MeanFlow())], ids=["CD", "CT"]
)
def test_consistency_tends_to_the_eulerian_gradient_times_the_gap(step, limit):
    flow_map = exact_map(std=0.9, bend=0.4, lean=0.2)
    drawn = pairs(256)
    expected = gradient_of(limit, flow_map, drawn, drawn[3] - drawn[2])
    errors = []
    for stages in (8, 9):
        found = gradient_of(
            Consistency(step, AnnealedStride(1, stages=stages)), flow_map, drawn, step=10**6
        )
        errors.append(sum((found[name] - expected[name]).square().sum() for name in found).sqrt())
    assert 1.7 < errors[0] / errors[1] < 2.3  # first order in the stride
    assert_same_gradient(found, expected, 0.02)


def test_consistency_distillation_leaves_only_its_solvers_error():
    """Heun's error per step is of order 3 in the stride h, 2 after division by it, 4 squared."""
    drawn = pairs(256)
    teacher = exact_map()
    coarse, fine = (
        residual(
            Consistency(AlongFlow(), AnnealedStride(1, stages=k)), teacher, drawn, step=9
        ).mean()
        for k in (2, 3)
    )
    assert fine < coarse / 8
    assert fine < 1e-4


def test_the_grid_of_consistency():
    s, t = torch.tensor([0.0, 0.1, 0.25, 0.9, 0.99]), torch.tensor([1.0, 1.0, 0.3, 1.0, 0.992])
    torch.testing.assert_close(
        GridStride(4)(s, t, 0), torch.tensor([0.25, 0.25, 0.3, 1.0, 0.992])
    )  # .24 goes to .5
    torch.testing.assert_close(AnnealedStride(100)(s, t, 150), s + (t - s) / 4)


def test_alpha_flow_goes_from_flow_matching_to_meanflow():
    flow_map = exact_map(std=0.9, bend=0.4, lean=0.2)
    drawn = pairs(256)
    x0, x1, s, t = drawn
    u = flow_map.average_velocity(Linear().interpolate(x0, x1, s), s, t)
    torch.testing.assert_close(
        residual(AlphaFlow(FixedAlpha(1.0)), flow_map, drawn), (u - (x1 - x0)).square().mean(1)
    )
    found = gradient_of(AlphaFlow(FixedAlpha(1e-5)), flow_map, drawn)
    assert_same_gradient(found, gradient_of(MeanFlow(), flow_map, drawn), 1e-3)


# The others


def test_many_legs_are_a_sampler_of_the_target_network():
    """The residual of n legs is |u - (Y - x) / gap|^2, Y the end of n equal teacher jumps."""
    student = exact_map(bend=0.4)
    teacher = exact_map(std=0.9, bend=0.3)
    drawn = pairs(256)
    x0, x1, s, t = drawn
    x = y = Linear().interpolate(x0, x1, s)
    for k in range(5):
        y = teacher(y, torch.lerp(s, t, k / 5), torch.lerp(s, t, (k + 1) / 5))
    target = (y - x) / (t - s)[:, None]
    expected = (student.average_velocity(x, s, t) - target).square().mean(1)
    torch.testing.assert_close(
        residual(Semigroup(legs=5), student, drawn, teacher=teacher), expected
    )
    with pytest.raises(ValueError, match="legs=1"):
        Semigroup(legs=1)


SOLVED = claiming("exact up to the solver")


@pytest.mark.parametrize("objective", SOLVED, ids=numbered(SOLVED))
def test_with_a_solver_little_is_left_at_the_exact_map(objective):
    drawn = pairs(256)
    left = residual(objective, exact_map(), drawn, teacher=exact_map()).mean()
    bent = residual(objective, exact_map(bend=0.1), drawn, teacher=exact_map()).mean()
    assert left < bent / 5


def test_two_legs_leave_only_the_solvers_error():
    """Heun's on the first leg, order 2: 4 in the square."""
    drawn = pairs(256)
    coarse, fine = (residual(TwoLegs(steps), exact_map(), drawn).mean() for steps in (4, 8))
    assert fine < coarse / 10
    assert fine < 1e-6


NOISY = claiming("exact on average")


@pytest.mark.parametrize("objective", NOISY, ids=numbered(NOISY))
def test_noisy_objectives_are_stationary_on_average_at_the_exact_map(objective):
    assert_mean_is_zero(gradient_samples(objective, exact_map()))
    moved = gradient_samples(objective, exact_map(bend=0.5), chunks=16)
    assert (moved.mean(0).abs() > 6 * moved.std(0) / 4).any()


def test_flow_map_matching_costs_the_variance_of_the_path_at_the_exact_map():
    """|d_t X - I_t'|^2 has mean std^2 / (t^2 std^2 + (1-t)^2) per entry; the return is exact."""
    x0, x1, s, t = pairs(N)
    found = residual(FlowMapMatching(), exact_map(), (x0, x1, s, t)).detach()
    assert_mean_is_zero((found - STD**2 / (t**2 * STD**2 + (1 - t) ** 2))[:, None])


def test_the_noise_of_meanflow_passes_through_the_map_and_that_of_improved_meanflow_does_not():
    """Their residuals at the exact map are grad X_{s,t} (I_s' - b_s) and I_s' - b_s.

    Here grad X_{s,t} is tau_t / tau_s.
    """
    flow_map = exact_map()
    x0, x1, s, t = pairs(256)
    noise = (x1 - x0) - flow_map.velocity(Linear().interpolate(x0, x1, s), s)
    stretch = torch.sqrt((t**2 * STD**2 + (1 - t) ** 2) / (s**2 * STD**2 + (1 - s) ** 2))
    plain = noise.square().mean(1)
    torch.testing.assert_close(residual(ImprovedMeanFlow(), flow_map, (x0, x1, s, t)), plain)
    torch.testing.assert_close(residual(MeanFlow(), flow_map, (x0, x1, s, t)), stretch**2 * plain)


@pytest.mark.parametrize(("stage", "n"), [(1, 4), (1, 2), (5, 4)])
def test_moment_matching_is_stationary_at_the_exact_map(stage, n):
    """The mean of z^2 is that of noise, for r half of the way to t and near s.

    With pairs counted it is not, for r half of the way.
    """

    def mean_square(paired):
        objective = MomentMatching(n, AnnealedStride(1, stages=stage), paired)
        flow_map = exact_map()
        rows = []
        for seed in range(256):
            loss = residual(objective, flow_map, pairs(256, seed), seed=seed, step=99).mean()
            rows.append(torch.cat([g.flatten() for g in gradients(loss, flow_map).values()]))
        z = torch.stack(rows).mean(0) / (torch.stack(rows).std(0) / 16)
        return z.square().mean()

    assert mean_square(False) < 4.0
    assert stage > 1 or mean_square(True) > 40.0


def test_moment_matching_by_hand():
    """Two points in one dimension, jumps of size w.

    MMD^2 = (2 + 2 k(x1 - x2)) / 4 + ... - 2 (sum of k(x_i - y_j)) / 4, and without a sample's own
    pair k(x1 - x2) + k(y1 - y2) - k(x1 - y2) - k(y1 - x2).
    """

    class Still(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return torch.zeros_like(x)

    x0, x1 = torch.tensor([[0.3], [-1.0]]), torch.tensor([[1.0], [2.0]])
    s, t = torch.tensor([0.2, 0.2]), torch.tensor([0.6, 0.6])
    still = ResidualMap(Still(), Linear())
    found, unpaired = (
        residual(MomentMatching(2, paired=p), still, (x0, x1, s, t)) for p in (True, False)
    )
    x, y = (
        [(1 - r) * a + r * b for a, b in ((0.3, 1.0), (-1.0, 2.0))] for r in (0.2, 0.4)
    )  # s = .2, r = (.2 + .6) / 2

    def k(a, b):
        return math.exp(-abs(a - b) / 0.4)

    expected = sum(k(a, b) for a in x for b in x) + sum(k(a, b) for a in y for b in y)
    expected = (expected - 2 * sum(k(a, b) for a in x for b in y)) / 4
    torch.testing.assert_close(found, torch.tensor([expected, expected]))
    expected = k(x[0], x[1]) + k(y[0], y[1]) - k(x[0], y[1]) - k(y[0], x[1])
    torch.testing.assert_close(unpaired, torch.tensor([expected, expected]))


def test_moment_matching_is_small_at_the_exact_map_and_not_elsewhere():
    """Of n samples the statistic with pairs keeps a part of order 1/n at equal distributions."""

    def at(n, flow_map):
        x0, x1, s, t = pairs(n)
        return residual(
            MomentMatching(n, paired=True),
            flow_map,
            (x0, x1, torch.full_like(s, 0.3), torch.full_like(t, 0.8)),
        ).mean()

    few = at(128, exact_map())
    many = at(1024, exact_map())
    off = at(1024, exact_map(bend=1.0))
    assert many < few / 4
    assert many < off / 10


# Where gradients stop


BY_HAND = [
    Lagrangian(),
    AverageLagrangian(),
    Eulerian(),
    AverageEulerian(),
    MeanFlow(),
    ImprovedMeanFlow(),
    Semigroup(),
]


def by_hand(objective, student, teacher, x0, x1, s, t):
    """The same residual, by finite differences and a teacher that takes no gradient."""
    x = (1 - s)[:, None] * x0 + s[:, None] * x1
    v = x1 - x0
    h = 1e-5
    gap = (t - s)[:, None]
    b = teacher.velocity(x, s)

    def d(f):
        return (f(h) - f(-h)) / (2 * h)

    u = student.average_velocity(x, s, t)
    match objective:
        case Lagrangian():
            return d(lambda k: student(x, s, t + k)) - teacher.velocity(teacher(x, s, t), t)
        case AverageLagrangian():
            d_t = d(lambda k: teacher.average_velocity(x, s, t + k))
            return u - (teacher.velocity(teacher(x, s, t), t) - gap * d_t)
        case Eulerian():
            return d(lambda k: student(x, s + k, t)) + d(lambda k: teacher(x + k * b, s, t))
        case AverageEulerian():
            return u - (b + gap * d(lambda k: teacher.average_velocity(x + k * b, s + k, t)))
        case MeanFlow():
            return u - (v + gap * d(lambda k: teacher.average_velocity(x + k * v, s + k, t)))
        case ImprovedMeanFlow():
            return u - (v + gap * d(lambda k: teacher.average_velocity(x + k * b, s + k, t)))
    r = (s + t) / 2
    return (
        u
        - (teacher.average_velocity(x, s, r) + teacher.average_velocity(teacher(x, s, r), r, t)) / 2
    )


@pytest.mark.parametrize("objective", BY_HAND, ids=lambda o: type(o).__name__)
def test_values_and_gradients_are_those_by_hand(objective):
    student = exact_map(std=0.9, bend=0.4, lean=0.2)
    teacher = copy.deepcopy(student).requires_grad_(False)
    drawn = pairs(128)
    expected = by_hand(objective, student, teacher, *drawn).square().mean(1)
    found = residual(objective, student, drawn)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    wanted = gradients(expected.mean(), student)
    for name, gradient in gradients(found.mean(), student).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-7)


@every_objective
def test_targets_take_no_gradient(objective):
    """The gradient is the same with the student as its target and with a frozen copy of it."""
    student = exact_map(std=0.9, bend=0.4, lean=0.2)
    drawn = pairs(64)
    copied = copy.deepcopy(student).requires_grad_(False)
    own, frozen = (
        gradient_of(objective, student, drawn, teacher=teacher) for teacher in (None, copied)
    )
    for name in own:
        torch.testing.assert_close(own[name], frozen[name], rtol=1e-12, atol=1e-14)


FROM_TEACHERS = [objective for objective in SMALL if "data" not in objective.asks]


@pytest.mark.parametrize("objective", FROM_TEACHERS, ids=numbered(FROM_TEACHERS))
def test_a_student_that_equals_its_teacher_has_no_residual(objective):
    """Zero, or small, where the student is the teacher's exact map; not where it is another's."""
    teacher = exact_map(mean=(0.0, 2.0), std=1.5)
    drawn = pairs(256)
    right, wrong = (
        residual(objective, m, drawn, teacher=teacher).mean() for m in (teacher, exact_map())
    )
    assert wrong > 1e-2
    assert right < wrong / 1000


# Differences instead of forward mode


@pytest.mark.parametrize("make", concrete(Differential))
def test_differences_tend_to_forward_mode_with_the_square_of_the_step(make):
    student = exact_map(std=0.9, bend=0.4, lean=0.2)
    drawn = pairs(128)
    exact = gradient_of(make(), student, drawn)
    errors = [
        sum(
            (g - exact[name]).abs().sum()
            for name, g in gradient_of(make(FiniteDifference(h)), student, drawn).items()
        )
        for h in (0.02, 0.01)
    ]
    assert 3.5 < errors[0] / errors[1] < 4.5


class Square(torch.autograd.Function):
    """x^2, without a rule for forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class OldLayer(torch.nn.Module):
    def forward(self, x):
        return Square.apply(x)


def test_a_layer_without_forward_mode_is_named_with_two_ways_out():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(4, 2).double()
            self.old = OldLayer()

        def forward(self, x, s, t, cond=None):
            return self.old(self.first(torch.cat((x, s[:, None], t[:, None]), dim=1)))

    flow_map = ResidualMap(Network(), Linear())
    drawn = pairs(8)
    with pytest.raises(
        ValueError,
        match=r"^OldLayer cannot .* forward mode .*FiniteDifference\(\), or .*Semigroup\(\)",
    ):
        residual(Lagrangian(), flow_map, drawn)
    for way_out in (Lagrangian(FiniteDifference()), Semigroup()):
        residual(way_out, flow_map, drawn).mean().backward()


def test_other_errors_of_a_network_stay_what_they_are():
    class Broken(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match=r"^out of cheese$"):
        residual(Lagrangian(), ResidualMap(Broken(), Linear()), pairs(8))


# Normalised tangents and warm-ups


def test_a_normalised_tangent_is_bounded_and_points_the_same_way():
    student = exact_map(std=2.0, bend=3.0)
    drawn = pairs(64)
    loss = residual(AverageEulerian(normalise=0.1), student, drawn)
    plain = residual(AverageEulerian(), student, drawn)
    torch.testing.assert_close(
        loss.sqrt(), plain.sqrt() / (plain.sqrt() + 0.1), rtol=1e-10, atol=1e-10
    )


def test_a_warm_up_starts_from_matching_the_velocity():
    student = exact_map(std=0.9, bend=0.4)
    x0, x1, s, t = pairs(64)
    x = Linear().interpolate(x0, x1, s)
    objective = AverageEulerian(warmup=10)
    start = (student.average_velocity(x, s, t) - student.velocity(x, s)).square().mean(1)
    torch.testing.assert_close(residual(objective, student, (x0, x1, s, t), step=0), start)
    after = residual(AverageEulerian(), student, (x0, x1, s, t))
    torch.testing.assert_close(residual(objective, student, (x0, x1, s, t), step=10), after)


# Dropout: evaluations whose difference counts share their masks


class Dropping(torch.nn.Module):
    """A little perceptron that drops units, in training."""

    def __init__(self, rate):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, 64).double()
        self.last = torch.nn.Linear(64, 2).double()
        self.dropout = torch.nn.Dropout(rate)

    def forward(self, x, s, t, cond=None):
        return self.last(
            self.dropout(torch.tanh(self.first(torch.cat((x, s[:, None], t[:, None]), dim=1))))
        )


@pytest.mark.parametrize(
    "objective",
    [
        MeanFlow(FiniteDifference(1e-3)),
        Eulerian(),
        AlphaFlow(FixedAlpha(1e-3)),
        Consistency(stride=AnnealedStride(1, stages=12)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_dropout_does_not_pass_for_a_derivative(objective):
    """Two evaluations a thousandth apart share their masks.

    With masks of their own, they would differ by a hundred times what they should.
    """
    drawn = pairs(512)
    kept, dropped = (
        residual(objective, ResidualMap(Dropping(rate), Linear()), drawn, step=99).mean()
        for rate in (0.0, 0.2)
    )
    assert dropped < 3 * kept


def test_masks_are_new_at_every_call():
    flow_map = ResidualMap(Dropping(0.5), Linear())
    drawn = pairs(8)
    one, two = (residual(MeanFlow(FiniteDifference(1e-3)), flow_map, drawn) for _ in range(2))
    assert not torch.equal(one, two)


# Inputs


def test_moment_matching_wants_groups_with_times_in_common():
    x0, x1, s, t = pairs(8)
    target = Target(exact_map(), exact_map())
    for part in (Pairs(x0, x1, s, t), Pairs(x0[:7], x1[:7], s[:1].expand(7), t[:1].expand(7))):
        with pytest.raises(ValueError, match=r"groups of 4 .*pairs=Grouped\(4\)"):
            MomentMatching(4)(exact_map(), target, part, generator())


@every_objective
def test_residuals_are_independent_of_the_rest_of_the_batch(objective):
    """Another first sample changes its own residual, that of its group, and no other's."""
    flow_map = exact_map(bend=0.4, lean=0.2)
    x0, x1, s, t = pairs(6)
    moved = torch.cat((x1[:1] + 1, x1[1:]))
    noise = x0 if "data" in objective.asks else torch.cat((x0[:1] + 1, x0[1:]))
    before = residual(objective, flow_map, (x0, x1, s, t))
    after = residual(objective, flow_map, (noise, moved, s, t))
    torch.testing.assert_close(before[2:], after[2:], rtol=1e-12, atol=1e-14)
    assert (before[1] == after[1]) == (objective.group == 1)
    assert before[0] != after[0]


@every_objective
def test_the_condition_reaches_every_evaluation(objective):
    class Labelled(torch.nn.Module):
        """The exact map, which fails when it is not given its own labels."""

        def __init__(self):
            super().__init__()
            self.exact = exact_map().network

        def forward(self, x, s, t, cond=None):
            assert cond.tolist() == list(range(len(x)))
            return self.exact(x, s, t)

    x0, x1, s, t = pairs(6)
    flow_map = ResidualMap(Labelled(), Linear())
    residual(objective, flow_map, (x0, x1, s, t), torch.arange(6)).mean().backward()
    FlowMatching()(flow_map, x0, x1, torch.arange(6), generator(), 0).total.backward()
