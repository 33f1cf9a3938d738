"""Regression on simulated paths: paths of the flow, targets their chords, and shared noise."""

import copy
import math
import pickle

import pytest
import torch
from exact_map import MEAN, STD, exact_map, generator, gradients, pairs

from steer.analytic import GaussianMixture
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import Linear
from steer.lookahead.glass_flow import GlassFlow
from steer.training import Joint, Pairs, Perceptual, Posterior, Target, TeacherTarget, Trajectory
from steer.training.trajectory import Path


def residual(objective, student, drawn, cond=None, teacher=None):
    teacher = teacher or exact_map()
    return objective(student, Target(teacher, teacher), Pairs(*drawn, cond), generator())


class Drift(FlowMap):
    """dx/dt = label, or 1 + 2 t + 3 t^2 where there is none."""

    schedule = Linear()

    def forward(self, x, s, t, cond=None):
        raise NotImplementedError

    def velocity(self, x, t, cond=None):
        if cond is None:
            return torch.full_like(x, 1 + 2 * t + 3 * t**2)
        return cond[:, None].to(x.dtype).expand_as(x)


class Still(torch.nn.Module):
    """u = 0, and what it was asked."""

    def forward(self, x, s, t, cond=None):
        self.x = x
        self.cond = cond
        return torch.zeros_like(x)


def test_between_its_nodes_a_path_is_exact_for_cubics():
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None]
    power = torch.arange(4)
    path = Path(
        (t**power).transpose(1, 2), (power * t ** (power - 1).clamp_min(0)).transpose(1, 2)
    )  # (5, 4, 1)
    row = torch.arange(4).repeat(50)
    at = torch.rand(200, generator=generator(), dtype=torch.float64)
    at[:2] = torch.tensor([0.0, 1.0])
    row[:2] = 3
    x, v = path.at(row, at)
    torch.testing.assert_close(x[:, 0], at**row)
    torch.testing.assert_close(v[:, 0], row * at ** (row - 1).clamp_min(0))


def test_the_exact_map_is_left_the_solvers_error_alone():
    """Heun's is of order 2, the loss's of 4: halving the step divides it by 16 in the limit."""
    coarse, fine = (
        residual(Trajectory(n, shared=4), exact_map(), pairs(256)).mean().item() for n in (32, 64)
    )
    assert 12 < coarse / fine < 20
    assert fine < 1e-7


def test_its_gradient_vanishes_with_it():
    sizes = [largest_gradient(Trajectory(n)) for n in (32, 64)]
    assert 3 < sizes[0] / sizes[1] < 5  # of order 2, as the residual
    assert sizes[1] < 1e-3


def largest_gradient(objective):
    student = exact_map()
    loss = residual(objective, student, pairs(256)).mean()
    return max(g.abs().max().item() for g in gradients(loss, student).values())


@pytest.mark.parametrize("change", ["bend", "lean"])
@pytest.mark.parametrize("by", [-0.5, 0.5])
def test_descent_straightens(change, by):
    student = exact_map(**{change: by})
    assert gradients(residual(Trajectory(), student, pairs(512)).mean(), student)[change] * by > 0


def test_the_places_it_learns_at_are_those_of_the_teachers_law():
    """Of x_s, mean s m and variance s^2 v^2 + (1 - s)^2, whatever the data are."""
    n = 8000
    s = 0.6
    x0 = torch.randn(n, 2, generator=generator(), dtype=torch.float64)
    nowhere = torch.full_like(x0, math.nan)
    time = torch.full((n,), s, dtype=torch.float64)
    student = ResidualMap(Still(), Linear())
    residual(Trajectory(32, shared=1), student, (x0, nowhere, time, time + 0.1))
    std = math.sqrt(s**2 * STD**2 + (1 - s) ** 2)
    assert (student.network.x.mean(0) - s * torch.tensor(MEAN)).abs().max() < 4.5 * std / math.sqrt(
        n
    )
    assert (student.network.x.std(0) / std - 1).abs().max() < 4.5 / math.sqrt(2 * n)


@pytest.mark.parametrize("back", [False, True])
def test_the_target_is_the_chord(back):
    """Of x = x0 + t + t^2 + t^3, which Heun's method misses by h^2 / 2 t at most, for any gap."""
    x0, x1, s, t = pairs(300)
    s[:3] = 0.25
    t[:3] = torch.tensor([0.25, 0.25 + 1e-12, 0.25 + 1e-5])
    s, t = (t, s) if back else (s, t)
    chord = 1 + (s + t) + (s * s + s * t + t * t)
    found = residual(
        Trajectory(100, shared=3), ResidualMap(Still(), Linear()), (x0, x1, s, t), teacher=Drift()
    )
    torch.testing.assert_close(found, chord**2, rtol=2e-4, atol=0)


def test_a_group_shares_its_firsts_noise_and_condition():
    x0, x1, s, t = pairs(10)
    student = ResidualMap(Still(), Linear())
    labels = torch.arange(10)
    found = residual(Trajectory(4, shared=4), student, (x0, x1, s, t), labels, Drift())
    leader = torch.tensor([0, 0, 0, 0, 4, 4, 4, 4, 8, 8])
    assert torch.equal(student.network.cond, labels[leader])
    torch.testing.assert_close(student.network.x, x0[leader] + (leader * s)[:, None])
    torch.testing.assert_close(found, leader.double() ** 2)


def test_it_is_distilled_without_data():
    """A teacher of another Gaussian than the data's teaches its own."""
    student = exact_map(mean=(0.0, 0.0), std=1.3, bend=0.3)
    wanted = {"mean": (0.5, 0.8), "std": 0.8}
    objective = Joint(None, Trajectory(16, shared=4), velocity=TeacherTarget(exact_map(**wanted)))
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    g = generator(3)
    for step in range(200):
        x0, x1 = torch.randn(2, 128, 2, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        objective(student, x0, x1, None, g, step).total.backward()
        optimizer.step()
        decay.step()
    found = student.network
    torch.testing.assert_close(
        found.mean.detach(), torch.tensor(wanted["mean"], dtype=torch.float64), rtol=0, atol=0.01
    )
    torch.testing.assert_close(
        found.std.abs().detach(),
        torch.tensor(wanted["std"], dtype=torch.float64),
        rtol=0,
        atol=0.01,
    )
    assert found.bend.abs() < 0.01


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"shared": 0}], ids=str)
def test_a_path_needs_a_step_and_serves_a_pair(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
        Trajectory(**wrong)


def test_it_teaches_draws_from_the_posterior_too():
    """Inside `Posterior` the condition is a context, whose rows go with their paths."""
    law = GaussianMixture([[2.0, 0.0], [-1.0, 1.5]], [0.8, 1.0])
    joint = Joint(None, Trajectory(16, shared=2), velocity=TeacherTarget(GlassFlow(law)))
    x0, x1, _, _ = pairs(64)
    student = ResidualMap(OfGlass(GlassFlow(law, steps=16)), Linear())
    assert Posterior(joint)(student, x0, x1, None, generator(), 0).total < 1e-2
    student.network.bent = 0.3
    assert Posterior(joint)(student, x0, x1, None, generator(), 0).total > 0.05


class OfGlass(torch.nn.Module):
    """The average velocity of a posterior's own flow, and how much is added to it."""

    bent = 0.0

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, s, t, cond=None):
        return self.flow.average_velocity(x, s, t, cond) + self.bent


# The metric


def network():
    torch.manual_seed(0)
    first = torch.nn.Conv2d(1, 3, 3, padding=1)
    second = torch.nn.Conv2d(3, 4, 2, 2)
    return torch.nn.Sequential(first, torch.nn.SiLU(), second)


@pytest.mark.parametrize("back", [False, True])
def test_a_metric_is_asked_at_the_paths_end_about_the_error(back):
    """Of dx/dt = 1 the error of u = 0 is -1, of X_{s,t} -(t - s), and the path ends at x0 + 1."""
    x0, x1, s, t = pairs(12)
    s, t = (t, s) if back else (s, t)
    seen = {}

    def metric(x, y):
        seen.update(x=x, y=y)
        return (x - y).square().sum(1)

    student = ResidualMap(Still(), Linear())
    one = torch.ones(12, dtype=torch.long)
    found = residual(
        Trajectory(4, shared=1, metric=metric, weight=0.5), student, (x0, x1, s, t), one, Drift()
    )
    torch.testing.assert_close(seen["y"], x0 + 1)
    gap = (t - s)[:, None]
    assert gap.abs().min() > 0.01
    torch.testing.assert_close(seen["x"], x0 + 1 - gap)
    torch.testing.assert_close(found, 1 + 0.5 * torch.full((12,), 2.0, dtype=torch.float64))


def test_with_a_metric_the_exact_map_stays_the_minimiser():
    def curved(x, y):
        return (torch.sin(3 * x) - torch.sin(3 * y)).square().sum(1)

    sizes = [largest_gradient(Trajectory(n, metric=curved, weight=3.0)) for n in (64, 128)]
    assert 3 < sizes[0] / sizes[1] < 5
    assert sizes[1] < 2e-3
    bent = exact_map(bend=0.3)
    assert (
        gradients(residual(Trajectory(metric=curved, weight=3.0), bent, pairs(256)).mean(), bent)[
            "bend"
        ]
        > 0
    )


def test_the_perceptual_distance_by_hand():
    net = network()
    x, y = torch.rand(2, 5, 1, 6, 6, generator=generator())

    def directions(x):
        first = net[0](2 * x)
        return [
            h / (h.square().sum(1, keepdim=True) + 1e-6).sqrt()
            for h in (first, net[2](torch.nn.functional.silu(first)))
        ]

    wanted = sum(
        (a - b).square().sum(1).mean((1, 2))
        for a, b in zip(directions(x), directions(y), strict=True)
    )
    metric = Perceptual(net, ["0", "2"], decode=lambda x: 2 * x)
    torch.testing.assert_close(metric(x, y), wanted)
    assert metric(x, x).abs().max() == 0
    assert not any(p.requires_grad for p in net.parameters())
    x.requires_grad_(True)
    assert torch.autograd.grad(metric(x, y).sum(), x)[0].abs().min(dim=0).values.max() > 0


def test_autocast_does_not_round_the_perceptual_distance():
    """An error of a thousandth is far below the digits of bfloat16."""
    metric = Perceptual(network(), ["0", "2"])
    x = torch.rand(3, 1, 6, 6, generator=generator())
    y = x + 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        rounded = metric(x, y)
    torch.testing.assert_close(rounded, metric(x, y))
    assert (rounded > 0).all()


def test_what_a_perceptual_distance_refuses():
    for layers in (["0", "9"], [], ["0", "0"], "0"):
        with pytest.raises(
            ValueError, match=r"a list of submodules, each once, such as \['0', '1', '2'\]; got"
        ):
            Perceptual(network(), layers)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    with pytest.raises(ValueError, match=r"\(B, channels, h, w\) each; got {'1': \(2, 3\)}"):
        Perceptual(flat, ["1"])(*torch.rand(2, 2, 1, 6, 6))
    with pytest.raises(ValueError, match=r"weight=-1\.0"):
        Trajectory(metric=Perceptual(network(), ["0"]), weight=-1.0)
    idle = torch.nn.ModuleDict({"used": network(), "idle": torch.nn.Conv2d(1, 1, 1)})
    idle.forward = idle["used"].forward
    with pytest.raises(ValueError, match=r"does not pass through its layers \['idle'\]"):
        Perceptual(idle, ["used.0", "idle"])(*torch.rand(2, 1, 1, 6, 6))


def test_a_perceptual_distance_is_copied_and_pickled_whole_and_leaves_the_network_alone():
    net = network()
    x, y = torch.rand(2, 3, 1, 6, 6, generator=generator())
    metric = Perceptual(net, ["0", "2"])
    for other in (
        copy.deepcopy(metric),
        pickle.loads(pickle.dumps(metric)),
        Perceptual(net, ["2", "0"]),
    ):
        torch.testing.assert_close(other(x, y), metric(x, y))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layer_counts_as_it_is_before_one_in_place_writes_over_it():
    net = network()
    plain = torch.nn.Sequential(net[0], torch.nn.ReLU(inplace=True))
    x, y = torch.rand(2, 3, 1, 6, 6, generator=generator())
    torch.testing.assert_close(Perceptual(plain, ["0"])(x, y), Perceptual(net, ["0"])(x, y))


def test_networks_and_decoders_of_their_own_precision():
    decode = torch.nn.Conv2d(1, 1, 1).double()
    metric = Perceptual(network().double(), ["0"], decode)
    x, y = torch.rand(2, 3, 1, 6, 6, generator=generator())
    assert metric(x, y).dtype == torch.float64
    assert not any(p.requires_grad for p in decode.parameters())
