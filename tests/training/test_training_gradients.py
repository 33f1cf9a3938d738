"""The gradient of every loss against finite differences, and the check before a training."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from exact_map import exact_map, pairs
from lightning.pytorch import Trainer
from torch import nn

from steer import training
from steer.data import Checkerboard
from steer.flow_map import OdeMap, ResidualMap
from steer.interpolant import Linear
from steer.loops import MapTraining, quiet
from steer.networks import ClassCondition, GroupNorm, LayerNorm, Mlp, Transformer, UNet
from steer.training import (
    METHODS,
    AverageLagrangian,
    EmaTarget,
    FiniteDifference,
    FlowMapMatching,
    FlowMatching,
    Joint,
    Lagrangian,
    Learned,
    Semigroup,
    UncheckedGradient,
    WrongGradient,
    check_gradient,
    gradient_check,
    named,
)
from steer.training.constants import Constants
from steer.training.gradient_check import Comparison, compare, compare_layer

quiet()
NAMES = [method.name for method in METHODS]


def transformer(recompute=False):
    torch.manual_seed(0)
    network = Transformer(1, 8, 1, 2, 2, ClassCondition(2, 8), recompute=recompute)
    return ResidualMap(network, Linear())


def plane(network=None):
    torch.manual_seed(0)
    return ResidualMap(network or Mlp(2, 16, 2), Linear())


def images(n=8):
    x1 = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x1, torch.arange(n) % 3 - 1


def points(n=8):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


# Every objective


def checked(name, flow_map, teacher, x1, cond):
    if name == "progressive":
        teacher = OdeMap(teacher, teacher.schedule, steps=2)
    objective = named(name, 100, flow_map, teacher, grid=2)
    with pytest.MonkeyPatch.context() as patch:  # a finer difference than training asks for
        patch.setattr(gradient_check, "compare", partial(compare, agreed=1e-11))
        found = check_gradient(objective, flow_map, x1, cond, samples=4)
    assert found.size > 1e-5
    assert found.doubt < 1e-7 * found.size
    return found.error


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_every_method_is_that_of_its_loss(name):
    """In float64, of which nine digits are left."""
    x1, _ = images()
    assert checked(name, plane(), plane(), x1.flatten(1)[:, :2], None) < 1e-9


THROUGH = ["lsd", "esd", "fmm"]  # whose gradient goes through d_t, through d_s, through both jumps


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", THROUGH)
def test_so_it_is_through_attention_normalisation_and_embeddings(name, recompute):
    assert checked(name, transformer(recompute), None, *images()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_so_it_is_of_every_method_on_a_transformer(name):
    assert checked(name, transformer(recompute=True), transformer(), *images()) < 1e-9


@pytest.mark.parametrize(
    "derivative", [None, FiniteDifference(0.005)], ids=["forward", "difference"]
)
@pytest.mark.parametrize("make", [Lagrangian, training.Eulerian, FlowMapMatching])
def test_so_is_that_of_every_derivative_with_weights_learned_beside_it(make, derivative):
    flow_map = plane()
    objective = Joint(
        FlowMatching(weighting=Learned(4)),
        make(derivative),
        0.5,
        velocity=EmaTarget(flow_map, 0.9),
        weighting=Learned(4),
    )
    assert check_gradient(objective, flow_map, points()).error < 1e-9


# What it finds


class WrongTwice(torch.autograd.Function):
    """x^3, whose tangent forgets that 3 x^2 depends on x."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g

    @staticmethod
    def jvp(ctx, v):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * v


class WrongOnce(WrongTwice):
    """x^3, with a backward pass that is 5 % too long."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3.15 * x**2 * g

    @staticmethod
    def jvp(ctx, v):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * v


class Cube(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        return self.rule.apply(x)


class Network(nn.Module):
    """Two linear layers and something between them."""

    def __init__(self, middle, dtype=None):
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.middle = middle
        self.last = nn.Linear(16, 2)
        self.dtype = dtype
        nn.init.zeros_(self.last.weight)

    def forward(self, x, s, t, cond=None):
        given = torch.cat((x, s[:, None], t[:, None]), dim=1).to(self.first.weight.dtype)
        h = self.first(given)
        if self.dtype is not None:
            h = h.to(self.dtype).to(h.dtype)
        return self.last(self.middle(h))


def test_a_layer_with_a_wrong_second_derivative_is_named_with_the_ways_out():
    flow_map = plane(Network(Cube(WrongTwice)))
    with pytest.raises(WrongGradient) as error:
        check_gradient(Joint(FlowMatching(), Lagrangian()), flow_map, points())
    says = str(error.value)
    assert "\n" not in says
    assert "Cube (network.middle) disagrees on its own" in says
    assert "the backward pass through its forward-mode tangent" in says
    for way_out in (
        "LayerNorm",
        "FiniteDifference()",
        "AverageLagrangian()",
        "check_gradient=False",
    ):
        assert way_out in says


@pytest.mark.parametrize("off", [Lagrangian(FiniteDifference()), AverageLagrangian(), Semigroup()])
def test_the_ways_out_are_ways_out(off):
    flow_map = plane(Network(Cube(WrongTwice)))
    assert check_gradient(Joint(FlowMatching(), off), flow_map, points()).error < 1e-7


def test_a_wrong_backward_pass_is_named_though_no_tangent_is_taken():
    flow_map = plane(Network(nn.Sequential(nn.Tanh(), Cube(WrongOnce))))
    with pytest.raises(
        WrongGradient, match=r"Cube \(network\.middle\.1\) .*, in its backward pass;"
    ):
        check_gradient(FlowMatching(), flow_map, points())


def test_an_operation_between_layers_is_named_by_the_module_it_is_in():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return WrongOnce.apply(self.layer(x))

    with pytest.raises(WrongGradient, match=r"Between \(network\.middle\) disagrees on its own"):
        check_gradient(FlowMatching(), plane(Network(Between())), points())


def test_torchs_own_layer_norm_is_found_where_it_is_wrong():
    """On torch 2.14 on a CPU; on a later torch that has corrected it, the check passes."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = compare_layer(nn.LayerNorm(8).double(), (x,), {}, tangent=True)
    flow_map = plane(Network(nn.LayerNorm(16)))
    if alone.wrong:
        with pytest.raises(WrongGradient, match=r"LayerNorm \(network\.middle\)"):
            check_gradient(Joint(FlowMatching(), Lagrangian()), flow_map, points())
    else:
        check_gradient(Joint(FlowMatching(), Lagrangian()), flow_map, points())


# What it does not mistake for an error


def test_a_random_error_of_any_size_is_told_from_none():
    """10 against 9.9 is an error of .1, 2 % of the size 5, unless the differences' doubt is .02."""
    assert Comparison(10.0, 9.9, 5.0, 1e-9).wrong
    assert Comparison(10.0, 9.9, 5.0, 1e-9).error == pytest.approx(0.02)
    assert not Comparison(10.0, 9.9, 5.0, 0.02).wrong


class Stopped(nn.Module):
    """A layer with a gradient that is stopped on purpose."""

    def forward(self, x):
        return x * torch.tanh(x).detach()


@pytest.mark.parametrize(
    "middle",
    [nn.ReLU(), nn.Dropout(0.5), Stopped(), nn.GELU(), LayerNorm(16), nn.GroupNorm(4, 16)],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize(
    "off",
    [Lagrangian(), pytest.param(training.MeanFlow(), marks=pytest.mark.slow)],
    ids=["lagrangian", "meanflow"],
)
def test_kinks_masks_and_gradients_stopped_on_purpose_pass(middle, off):
    found = check_gradient(Joint(FlowMatching(), off, 0.5), plane(Network(middle)), points())
    assert found.error < 1e-6 + 10 * found.doubt / found.size
    assert found.doubt < 1e-4 * found.size


@pytest.mark.slow
def test_a_network_that_rounds_inside_passes_by_its_doubt():
    for dtype in (torch.float32, torch.bfloat16):
        network = Network(nn.Tanh(), dtype)
        check_gradient(Joint(FlowMatching(), Lagrangian(), 0.5), plane(network), points())


def test_what_cannot_be_copied_or_run_in_float64_is_not_judged():
    class Single(nn.Module):
        def forward(self, x):
            return torch.nn.functional.linear(x, torch.eye(16, dtype=torch.float32))

    with pytest.raises(UncheckedGradient, match=r"RuntimeError: .*dtype") as error:
        check_gradient(FlowMatching(), plane(Network(Single())), points())
    assert isinstance(error.value.__cause__, RuntimeError)


def test_it_changes_and_consumes_nothing():
    flow_map = plane(Network(nn.Dropout(0.5)))
    objective = Joint(FlowMatching(), Semigroup(), jumps=EmaTarget(flow_map))
    before = copy.deepcopy((flow_map.state_dict(), objective.state_dict()))
    state = torch.get_rng_state()
    dtype = torch.get_default_dtype()
    first, second = (check_gradient(objective, flow_map, points()) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    for one, other in zip(before, (flow_map.state_dict(), objective.state_dict()), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(p.grad is None for p in flow_map.parameters())


# Constants


def test_differences_hold_constant_what_autograd_does():
    """w sg(w) has the derivative w, and sin(w) in a no_grad() block none; w^2 has 2 w."""
    w = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)

    def loss():
        with torch.no_grad():
            constant = torch.sin(w)
        return (w * w.detach() + constant * w + w**2).sum()

    found = compare(loss, [w])
    assert found.error < 1e-10
    (gradient,) = torch.autograd.grad(loss(), w)
    torch.testing.assert_close(gradient, (3 * w + torch.sin(w)).detach())


def test_constants_are_given_again_in_their_order():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    constants = Constants()
    with constants:
        first = w.detach() * w + (10 * w).detach() * w
    with torch.no_grad():
        w += 1.0
    with constants:
        again = w.detach() * w + (10 * w).detach() * w
    assert first == 2 * 2 + 20 * 2
    assert again == 2 * 3 + 20 * 3


# In training


def fit(loop, steps=2, **trainer):
    Trainer(
        max_steps=steps,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **trainer,
    ).fit(loop, Checkerboard(8))
    return loop


def test_training_stops_before_its_first_step_and_goes_on_where_it_should():
    loop = MapTraining(
        plane(Network(Cube(WrongTwice))), Joint(FlowMatching(), Lagrangian()), lr=0.1
    )
    start = copy.deepcopy(loop.flow_map.state_dict())
    with pytest.raises(WrongGradient, match=r"Cube \(network\.middle\)"):
        fit(loop)
    assert all(torch.equal(start[name], w) for name, w in loop.flow_map.state_dict().items())
    loop.check_gradient = False
    assert fit(loop).global_step == 2


def test_a_warm_up_hides_nothing():
    """The jumps are taught after the first hundred steps only, and checked before the first."""
    objective = Joint(FlowMatching(), Lagrangian(), diag_only_steps=100)
    with pytest.raises(WrongGradient):
        fit(MapTraining(plane(Network(Cube(WrongTwice))), objective, lr=0.1), steps=200)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_checked_trainings_end_with_the_same_bits(precision):
    def weights(check):
        objective = Joint(FlowMatching(), Lagrangian(), 0.5)
        torch.manual_seed(0)
        flow_map = plane(Network(nn.Dropout(0.1)))
        loop = MapTraining(flow_map, objective, check_gradient=check, lr=0.01)
        return fit(loop, 3, precision=precision).flow_map.state_dict()

    with_it = weights(True)
    without = weights(False)
    assert all(torch.equal(with_it[name], without[name]) for name in with_it)


def test_a_training_that_could_not_be_checked_says_so():
    class Odd(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float64:
                raise RuntimeError("no float64 here")
            return x

    with pytest.warns(UserWarning, match="not compared") as warned:
        fit(MapTraining(plane(Network(Odd())), FlowMatching(), lr=0.1))
    (says,) = (str(each.message) for each in warned if "not compared" in str(each.message))
    assert "RuntimeError: no float64 here" in says
    assert "check_gradient=False" in says
    assert "\n" not in says
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not compared")
        fit(MapTraining(plane(Network(Odd())), FlowMatching(), check_gradient=False, lr=0.1))


# Half precision


@pytest.mark.parametrize("samples", [1, 2])
def test_one_sample_trains_under_autocast_as_several_do(samples):
    """The memory of a single sample counts as channels first.

    There the tangent of torch's group norm is not rounded to bfloat16 with its value.
    """
    torch.manual_seed(0)
    flow_map = ResidualMap(UNet(1, (8,), 1), Linear())
    x0, x1 = torch.randn(2, 2 * samples, 1, 8, 8)
    objective = Joint(FlowMatching(), Lagrangian(), 0.5)
    exact = objective(flow_map, x0, x1, None, torch.Generator().manual_seed(0), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(flow_map, x0, x1, None, torch.Generator().manual_seed(0), 0).total
    rounded.backward()
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow_map.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_group_norm_rounds_its_tangent_with_its_value(layout):
    norm = GroupNorm(2, 4)
    x, v = torch.randn(2, 3, 4, 5, 5).bfloat16()
    x, v = (z.to(memory_format=layout) for z in (x, v))
    value, tangent = torch.func.jvp(norm, (x,), (v,))
    assert value.dtype == tangent.dtype == torch.bfloat16
    assert torch.equal(value, nn.GroupNorm(2, 4)(x))
    _, wanted = torch.func.jvp(norm, (x.float(),), (v.float(),))
    torch.testing.assert_close(tangent.float(), wanted, rtol=0.02, atol=0.05)


# Moving averages in half precision


def test_an_average_moves_in_bfloat16_as_in_float32():
    """A thousandth of the way at a time: bfloat16 would stay where it is."""
    student = plane().bfloat16()
    teacher = EmaTarget(student, decay=0.999).bfloat16()
    expected = None
    first = [p.detach().float() for p in student.parameters()]
    for step in range(200):
        asked = teacher(student, step)
        now = [p.detach().float() for p in student.parameters()]
        rows = zip(expected or now, now, strict=True)
        expected = [0.999 * a + 0.001 * b for a, b in rows]
        if step == 0:
            with torch.no_grad():
                for p in student.parameters():
                    p += 1.0
    for kept, wanted in zip(teacher.flow_map.parameters(), expected, strict=True):
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-5)
    for rounded, wanted, begin in zip(asked.parameters(), expected, first, strict=True):
        torch.testing.assert_close(rounded, wanted.bfloat16())
        share = (wanted - begin).mean() / (1 - 0.999**199)
        assert math.isclose(share, 1.0, rel_tol=0.01)
    x0, _, s, t = pairs(4)
    assert asked(x0.bfloat16(), s, t).dtype == torch.bfloat16


def test_an_average_follows_a_training_in_true_bfloat16():
    flow_map = plane()
    objective = Joint(FlowMatching(), Semigroup(), 0.5, jumps=EmaTarget(flow_map, 0.999))
    start = copy.deepcopy(objective.jumps.flow_map.state_dict())
    loop = fit(MapTraining(flow_map, objective, lr=0.1), 20, precision="bf16-true")
    moved = objective.jumps.flow_map.state_dict()
    assert next(loop.flow_map.parameters()).dtype == torch.bfloat16
    for name, weight in loop.flow_map.named_parameters():
        way = moved[name] - start[name]
        whole = weight.detach().float() - start[name]
        assert (
            0.002 < way.norm() / whole.norm() < 0.02
        )  # of 20 steps of a thousandth, later ones less


def test_an_average_in_float64_stays_there_and_is_asked_itself():
    student = exact_map()
    teacher = EmaTarget(student, 0.9)
    assert teacher(student, 0) is teacher.flow_map
    assert next(teacher.flow_map.parameters()).dtype == torch.float64
