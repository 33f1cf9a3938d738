"""The parts of objectives: target networks, weightings, laws of pairs, couplings."""

import copy
import inspect
import itertools
import math

import pytest
import torch
from every import LAWS, concrete, numbered
from exact_map import exact_map, generator, pairs, residual
from selection import slow_but

from steer.flow_map import FlowMap, OdeMap, ResidualMap
from steer.guidance import ClassifierFree, Guided, Unconditional
from steer.interpolant import Trigonometric
from steer.lookahead.glass_flow import GlassFlow
from steer.maps.consistency import ConsistencyMap
from steer.maps.posterior import PosteriorMap
from steer.maps.rescheduled import Rescheduled
from steer.networks import Mlp
from steer.training import (
    Adaptive,
    AnyPair,
    Dyadic,
    EmaTarget,
    FlowMatching,
    Grouped,
    Joint,
    Lagrangian,
    Learned,
    LogitNormal,
    Loss,
    Mixture,
    Objective,
    OnGrid,
    OptimalTransport,
    Plain,
    Posterior,
    SelfTarget,
    Semigroup,
    SigmoidAlpha,
    TargetNetwork,
    TeacherTarget,
    ToData,
    VelocityMatching,
)

# Target networks


def weights(flow_map):
    return torch.cat([p.detach().flatten() for p in flow_map.parameters()])


def test_a_self_target_is_the_student():
    student = exact_map()
    assert SelfTarget()(student, 3) is student


@pytest.mark.parametrize("network", concrete(TargetNetwork), ids=lambda c: c.__name__)
def test_a_target_network_gives_a_map_and_says_whose(network):
    student = exact_map()
    copied = "flow_map" in inspect.signature(network).parameters
    target = network(exact_map()) if copied else network()
    assert isinstance(target(student, 0), FlowMap)
    assert target.source
    assert not any(p.requires_grad for p in target.parameters())


def test_an_average_is_that_of_the_steps_however_often_it_is_asked():
    student = exact_map()
    teacher = EmaTarget(student, decay=0.9)
    expected = None
    for step in range(4):
        with torch.no_grad():
            student.network.bend += 1.0
        now = weights(student)
        expected = now if expected is None else 0.9 * expected + 0.1 * now
        for _ in range(3):
            torch.testing.assert_close(weights(teacher(student, step)), expected)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_an_average_resumes_from_what_was_saved():
    student = exact_map()
    objective = Joint(FlowMatching(), Lagrangian(), velocity=EmaTarget(student, decay=0.5))
    objective.velocity(student, 0)
    with torch.no_grad():
        student.network.bend += 1.0
    again = Joint(FlowMatching(), Lagrangian(), velocity=EmaTarget(exact_map(std=2.0), decay=0.5))
    again.load_state_dict(objective.state_dict())
    for o in (objective, again):
        assert o.velocity(student, 1).network.bend == 0.5


def test_a_frozen_teacher_is_neither_trained_nor_saved():
    teacher = exact_map(std=1.5)
    student = exact_map()
    objective = Joint(None, Lagrangian(), velocity=TeacherTarget(teacher))
    assert objective.state_dict() == {}
    assert list(objective.parameters()) == []
    x0, x1, _, _ = pairs(32)
    objective(student, x0, x1, None, generator(), 0).total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.network.std.grad.abs() > 0


def test_a_teacher_on_another_path_is_refused_with_the_way_to_convert_it():
    teacher = ResidualMap(exact_map().network, Trigonometric())
    x0, x1, _, _ = pairs(8)
    for objective in (
        Joint(None, Lagrangian(), velocity=TeacherTarget(teacher)),
        VelocityMatching(teacher),
    ):
        with pytest.raises(
            ValueError,
            match=r"^the teacher's path is steer\.Trigonometric.*Linear.*steer\.Rescheduled\(",
        ):
            objective(exact_map(), x0, x1, None, generator(), 0)


def test_an_average_is_quiet_and_copies_buffers():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.exact = exact_map().network
            self.dropout = torch.nn.Dropout(0.5)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x, s, t, cond=None):
            return self.dropout(self.exact(x, s, t))

    student = ResidualMap(Network(), exact_map().schedule)
    objective = Joint(FlowMatching(), Semigroup(), jumps=EmaTarget(student)).train()
    student.network.seen += 5.0
    teacher = objective.jumps(student, 0)
    assert not teacher.network.dropout.training
    assert student.network.dropout.training
    assert teacher.network.seen == 5.0
    assert sum("network.exact.mean" in key for key in objective.state_dict()) == 1


def test_an_average_of_another_build_is_refused():
    wrong = ResidualMap(torch.nn.Linear(2, 2), exact_map().schedule)
    with pytest.raises(
        ValueError,
        match=r"^EmaTarget .*network\.bend should be \(\) and is nothing",
    ):
        EmaTarget(wrong)(exact_map(), 0)


def test_a_frozen_student_is_refused():
    student = exact_map()
    objective = Joint(
        None, Lagrangian(), velocity=TeacherTarget(OdeMap(student, student.schedule, 4))
    )
    x0, x1, _, _ = pairs(8)
    with pytest.raises(
        ValueError, match=r"the frozen teacher is the student itself; give it copy\.deepcopy"
    ):
        objective(student, x0, x1, None, generator(), 0)


# Guidance of the teacher


class TwoLaws(torch.nn.Module):
    """The exact map of one Gaussian with a condition, of another without."""

    def __init__(self):
        super().__init__()
        self.with_cond = exact_map(mean=(2.0, 0.0)).network
        self.without = exact_map(mean=(0.0, 0.0)).network

    def forward(self, x, s, t, cond=None):
        return self.without(x, s, t) if cond is None else self.with_cond(x, s, t)


def test_guidance_is_remembered_by_objective_and_map_and_not_applied_twice():
    teacher = ClassifierFree(ResidualMap(TwoLaws(), exact_map().schedule), weight=3.0)
    assert Joint(None, Lagrangian(), velocity=TeacherTarget(teacher)).guidance == 3.0
    assert Joint(VelocityMatching(teacher), Semigroup()).guidance == 3.0
    assert Joint(FlowMatching(), Semigroup()).guidance == 1.0
    guided = ResidualMap(exact_map().network, exact_map().schedule, guidance=3.0)
    with pytest.raises(ValueError, match=r"guidance of weight 3\.0"):
        ClassifierFree(guided)


def test_a_guided_velocity_beside_a_diagonal_from_data_is_refused():
    teacher = ClassifierFree(ResidualMap(TwoLaws(), exact_map().schedule), weight=3.0)
    with pytest.raises(
        ValueError, match=r"guided by 3\.0 and the diagonal one guided by 1\.0.*VelocityMatching"
    ):
        Joint(FlowMatching(), Lagrangian(), velocity=TeacherTarget(teacher))


def test_guidance_is_remembered_through_whatever_wraps_the_map():
    guided = ResidualMap(exact_map().network, exact_map().schedule, guidance=3.0)
    wrapped = [
        OdeMap(guided, guided.schedule, 4),
        Unconditional(guided),
        Guided(guided),
        Rescheduled(guided, Trigonometric()),
        GlassFlow(guided),
        PosteriorMap(guided, GlassFlow(guided)),
        ConsistencyMap(lambda x, t, cond: x, guided.schedule, velocity=guided),
    ]
    assert [flow_map.guidance for flow_map in wrapped] == [3.0] * len(wrapped)
    objective = Joint(VelocityMatching(guided), Semigroup())
    assert OptimalTransport(objective).guidance == Posterior(objective).guidance == 3.0
    assert Joint(None, Semigroup(), jumps=TeacherTarget(guided)).guidance == 3.0
    with pytest.raises(ValueError, match=r"guided by 3\.0 and the diagonal one guided by 1\.0"):
        Joint(FlowMatching(), Semigroup(), jumps=TeacherTarget(guided))


def test_a_guided_teacher_teaches_its_guided_velocity():
    """Of Gaussians that differ in the mean alone, guidance gives one with mean w times as far."""
    teacher = ClassifierFree(ResidualMap(TwoLaws(), exact_map().schedule), weight=3.0)
    x0, x1, _, _ = pairs(64)
    objective = Joint(VelocityMatching(teacher), Lagrangian(), 0.5, velocity=TeacherTarget(teacher))
    loss = objective(exact_map(mean=(6.0, 0.0)), x0, x1, torch.ones(64), generator(), 0)
    assert loss.total < 1e-20
    assert objective(exact_map(mean=(2.0, 0.0)), x0, x1, torch.ones(64), generator(), 0).total > 0.1


# Weightings


def test_adaptive_weights_by_hand():
    residual = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    times = torch.rand(3)
    loss = Adaptive(p=0.5, eps=1.0)(residual, times, times)
    torch.testing.assert_close(loss, residual * torch.tensor([1.0, 0.5**0.5, 0.5]).double())
    (gradient,) = torch.autograd.grad(loss.sum(), residual)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.5**0.5, 0.5]).double())


def test_learned_weights_start_plain_and_end_at_the_logarithm_of_the_residual():
    """Residuals of two sizes at two pairs of times: w tends to log L, the term to 1 + log L."""
    weighting = Learned().double()
    sizes = torch.tensor([0.01, 4.0], dtype=torch.float64)
    s, t = torch.tensor([[0.1, 0.6], [0.9, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(weighting(sizes, s, t), sizes)
    optimizer = torch.optim.Adam(weighting.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        weighting(sizes, s, t).sum().backward()
        optimizer.step()
    torch.testing.assert_close(weighting(sizes, s, t), 1 + sizes.log(), rtol=1e-3, atol=1e-3)


def test_joint_weighs_what_is_off_the_diagonal_and_logs_it_unweighted():
    x0, x1, _, _ = pairs(32)
    flow_map = exact_map(bend=0.5)
    plain, double = (Joint(FlowMatching(), Semigroup(), weighting=w) for w in (Plain(), Double()))
    one, two = (o(flow_map, x0, x1, None, generator(), 0) for o in (plain, double))
    torch.testing.assert_close(two.total - one.total, one.terms["off_diagonal"])
    assert one.terms == two.terms


def test_every_weight_is_in_every_loss():
    """As DDP wants it: also the weighting's, while the whole batch is on the diagonal."""
    x0, x1, _, _ = pairs(32)
    objective = Joint(FlowMatching(), Semigroup(), diag_only_steps=5, weighting=Learned().double())
    objective(exact_map(), x0, x1, None, generator(), 0).total.backward()
    assert all((p.grad == 0).all() for p in objective.weighting.parameters())


def test_the_weight_of_the_jumps_in_the_sum():
    x0, x1, _, _ = pairs(32)
    one, third = (
        Joint(FlowMatching(), Semigroup(), off_weight=w)(
            exact_map(bend=0.5), x0, x1, None, generator(), 0
        )
        for w in (1.0, 1 / 3)
    )
    torch.testing.assert_close(one.total - third.total, one.terms["off_diagonal"] * 2 / 3)


class Double(Plain):
    def forward(self, residual, s, t):
        return 2 * residual


# Laws of pairs


@pytest.mark.parametrize("law", LAWS, ids=numbered(LAWS))
def test_laws_of_pairs_are_what_they_say(law):
    s, t = law.sample(60, generator())
    assert s.shape == t.shape == (60,)
    assert s.dtype == t.dtype == torch.float32
    assert law.label
    assert bool((t == 1).all()) == law.to_data
    if law.takes_times:
        s, _ = law.of(LogitNormal(3.0, 0.1)).sample(400, generator())
        assert 0.93 < s.mean() < 0.96  # sigmoid(3) = .953
    else:
        with pytest.raises(ValueError, match="has its own times"):
            law.of(LogitNormal())


def test_dyadic_pairs_are_halved_onto_the_next_level():
    s, t = Dyadic(4).sample(4000, generator())
    gap = t - s
    half = (s + t) / 2
    assert set(gap.tolist()) == {1.0, 0.5, 0.25, 0.125}
    assert all((s / gap == (s / gap).round()).tolist())
    assert 0 <= s.min() <= t.max() <= 1
    for size in (1.0, 0.5, 0.25, 0.125):
        share = (gap == size).float().mean()
        assert abs(share - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 4000)
    coarse = gap > 0.125
    finer = set(zip(s.tolist(), t.tolist(), strict=True))
    assert set(zip(s[coarse].tolist(), half[coarse].tolist(), strict=True)) <= finer


def test_pairs_to_data_on_a_grid_and_in_either_order():
    s, t = ToData().sample(1000, generator())
    assert (t == 1).all()
    assert (s < 1).all()
    s, t = OnGrid(4).sample(1000, generator())
    assert set(zip(s.tolist(), t.tolist(), strict=True)) == {
        (0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1),
    }
    s, t = AnyPair().sample(4000, generator())
    assert abs((s < t).float().mean() - 0.5) < 4.5 * 0.5 / math.sqrt(4000)


def test_a_mixture_keeps_each_pair_whole_and_its_laws_by_weight():
    s, t = Mixture([OnGrid(1), OnGrid(4), ToData()], [2, 1, 1]).sample(8000, generator())
    assert s.shape == t.shape == (8000,)
    quarter = t - s == 0.25
    whole = (s == 0) & (t == 1)
    assert (quarter | (t == 1)).all()
    for part, share in ((whole, 0.5), (quarter, 0.25)):
        assert abs(part.float().mean() - share) < 4.5 * math.sqrt(share * (1 - share) / 8000)
    with pytest.raises(
        ValueError, match="one positive weight for each law; got 2 laws and weights"
    ):
        Mixture([OnGrid(1), ToData()], [1.0])


def test_grouped_pairs_stand_side_by_side():
    s, t = Grouped(4).sample(10, generator())
    assert len(s) == len(t) == 10
    assert len(set(s.tolist())) == len(set(t.tolist())) == 3
    assert len(set(s[4:8].tolist())) == 1


def test_alpha_falls_along_a_sigmoid_and_stays():
    alpha = SigmoidAlpha(100, 300, last=0.01)
    assert alpha(0) == alpha(100) == 1.0
    assert alpha(200) == 0.5
    assert alpha(300) == alpha(10**6) == 0.01
    course = [alpha(step) for step in range(100, 301)]
    assert course == sorted(course, reverse=True)


def test_shortcuts_rest_on_the_velocity():
    """At the finest gap the halves are Euler steps; a map right on the diagonal alone fails."""
    x0, x1, _, _ = pairs(64)
    s, t = torch.full((64,), 0.25), torch.full((64,), 0.25 + 1 / 64)

    class Still(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return exact_map().network(x, s, t) * (s == t)[:, None]

    still = ResidualMap(Still(), exact_map().schedule)
    drawn = (x0, x1, s.double(), t.double())
    assert residual(Semigroup(), still, drawn).max() == 0
    assert residual(Semigroup(finest=1 / 128), still, drawn).mean() > 0.1
    assert residual(Semigroup(finest=1 / 128), exact_map(), drawn).mean() < 1e-3


# Teachers of another shape


@pytest.mark.parametrize(
    "of",
    [lambda t: Joint(None, Lagrangian(), velocity=TeacherTarget(t)), VelocityMatching],
    ids=["jumps", "velocity"],
)
def test_a_teacher_of_another_shape_is_refused_in_one_line(of):
    x0, x1, _, _ = (z.float() for z in pairs(8))
    student, teacher = (ResidualMap(Mlp(dim, 8, 2), exact_map().schedule) for dim in (2, 3))
    with pytest.raises(
        ValueError,
        match=r"^the teacher does not take samples of shape \(2,\), as the student does: ",
    ) as error:
        of(teacher)(student, x0, x1, None, generator(), 0)
    assert "\n" not in str(error.value)

    class Wide(FlowMap):
        schedule = exact_map().schedule

        def forward(self, x, s, t, cond=None):
            raise NotImplementedError

        def velocity(self, x, t, cond=None):
            return x.repeat(1, 2)

    with pytest.raises(ValueError, match=r"as the student does: its velocity has shape \(4,\)"):
        of(Wide())(student, x0, x1, None, generator(), 0)
    with pytest.raises(ValueError, match="takes no condition"):
        of(ResidualMap(Mlp(2, 8, 2), exact_map().schedule))(
            student, x0, x1, torch.zeros(8, dtype=torch.long), generator(), 0
        )


# Couplings


class Seen(Objective):
    def forward(self, flow_map, x0, x1, cond, generator, step):
        self.x0 = x0
        self.x1 = x1
        self.cond = cond
        return Loss(x0.sum(), {})


def test_optimal_transport_is_the_best_of_all_permutations():
    x0, x1 = torch.randn(2, 6, 2, generator=generator(), dtype=torch.float64)
    seen = Seen()
    OptimalTransport(seen)(exact_map(), x0, x1, torch.arange(6), generator(), 0)
    best = min((x1 - x0[list(order)]).square().sum() for order in itertools.permutations(range(6)))
    torch.testing.assert_close((seen.x1 - seen.x0).square().sum(), best)
    assert torch.equal(seen.x1, x1)
    assert seen.cond.tolist() == list(range(6))
    assert {tuple(row) for row in seen.x0.tolist()} == {tuple(row) for row in x0.tolist()}


@pytest.mark.parametrize("entropy", slow_but(["1.0"], [0.3, 1.0, 4.0], ["0.3", "1.0", "4.0"]))
def test_with_entropy_noise_is_drawn_from_sinkhorns_plan(entropy):
    """Of two and two: (p / (1 - p))^2 = exp((c12 + c21 - c11 - c22) / (entropy mean c)).

    p is the probability of the first match.
    """
    x0, x1 = torch.randn(2, 2, 3, generator=generator(), dtype=torch.float64)
    cost = torch.cdist(x1, x0).square()
    odds = (cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / (entropy * cost.mean())
    p = torch.sigmoid(odds / 2)
    n = 4000
    g = generator()
    coupling = OptimalTransport(Seen(), entropy)
    drawn = torch.stack([coupling.match(x0, x1, g) for _ in range(n)])
    found = (drawn == torch.arange(2)).double().mean(0)
    assert ((found - p).abs() < 4 * torch.sqrt(p * (1 - p) / n)).all()


def test_entropy_leads_from_the_best_permutation_to_none():
    x0, x1 = torch.randn(2, 16, 2, generator=generator(), dtype=torch.float64)
    near = x0.flip(0) + 0.01 * x1
    best = torch.arange(15, -1, -1)
    for entropy in (0.0, 1e-3):
        assert torch.equal(OptimalTransport(Seen(), entropy).match(x0, near, generator()), best)
    with pytest.raises(ValueError, match="2000 iterations; raise entropy=1e-09"):
        OptimalTransport(Seen(), 1e-9).match(x0, x1, generator())
    assert OptimalTransport(Seen(), 0.1).match(x0[:1], x0[:1], generator()).tolist() == [0]
    free = Seen()
    OptimalTransport(free, math.inf)(exact_map(), x0, x1, None, generator(), 0)
    assert torch.equal(free.x0, x0)


def test_entropy_needs_pot(monkeypatch):
    with pytest.raises(ValueError, match="entropy is a number, at least 0; got -1"):
        OptimalTransport(Seen(), -1.0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install pot"):
        OptimalTransport(Seen(), 0.1)


def test_coupled_flow_matching_has_less_variance():
    """In the plane, of Gaussian data: I_t' of matched pairs has less variance given I_t."""
    x0, x1, _, _ = pairs(512)
    plain, matched = (
        o(copy.deepcopy(exact_map()), x0, x1, None, generator(), 0).total
        for o in (FlowMatching(), OptimalTransport(FlowMatching()))
    )
    assert matched < 0.5 * plain
