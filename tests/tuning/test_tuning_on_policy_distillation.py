"""On-policy distillation: where it rests, who teaches whom, and the Eulerian term."""

import math

import pytest
import torch
from test_tuning_diagonal import REWARD, M, Normal
from toys import Matrix, ball_map, linear_map, noise, seeded

from steer import checkpoint, counting
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import Linear, Trigonometric
from steer.networks import Mlp
from steer.tilt import Tilt
from steer.training import AverageEulerian
from steer.training.base import Pairs, Target
from steer.tuning import OnPolicyDistillation

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples


def never(x):
    raise AssertionError("no reward is needed")


def normal(m):
    return ResidualMap(Normal(m), Linear())


def loss_of(flow_map, teachers, n=50, cond=None, base=None, seed=1, **settings):
    objective = OnPolicyDistillation(teachers, **settings)
    base = base or ResidualMap(Normal(9.0), Linear())
    objective.prepare(flow_map, base, Tilt(never))
    return objective(flow_map, base, Tilt(never), noise(n, 1), cond, seeded(seed), 0)


def test_a_map_that_is_its_teacher_has_no_loss_and_no_gradient():
    flow_map = normal(0.7)
    loss = loss_of(flow_map, normal(0.7), consistency=1.0)
    assert loss.total < 1e-12
    assert abs(torch.autograd.grad(loss.total, flow_map.network.m)[0]) < 1e-9
    base = normal(0.7)
    assert loss_of(flow_map, None, base=base, consistency=1.0).total < 1e-12
    assert base.network.m.requires_grad  # the loop's, not this objective's


@pytest.mark.parametrize("jumps", [1, 4])
def test_it_descends_to_its_teacher_from_all_times_alike(jumps):
    """Of N(m, 1) the velocity is m (1 - t) / rho_t^2 + ... x: the loss is (m - m')^2 times
    int (1 - t)^2 / rho_t^4 dt = pi / 4, whatever the number of jumps.
    """
    flow_map = normal(0.2)
    for teacher in (0.7, -0.4):
        loss = loss_of(flow_map, normal(teacher), n=20_000, jumps=jumps, consistency=0.0)
        expected = (0.2 - teacher) ** 2 * math.pi / 4
        assert loss.total.item() == pytest.approx(expected, rel=0.02)
        slope = torch.autograd.grad(loss.total, flow_map.network.m)[0].item()
        assert slope == pytest.approx(2 * expected / (0.2 - teacher), rel=0.02)


def test_it_rests_at_the_tilt_that_its_teacher_is():
    """Student: the velocity of world M plus c times the change to its tilt."""

    class Between(torch.nn.Module):
        def __init__(self, c):
            super().__init__()
            self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))

        def forward(self, x, s, t, cond=None):
            before = M.velocity(x, s)
            return before + self.c * (tilted.velocity(x, s) - before)

    tilted = M.tilted(REWARD)[0]
    slopes = {}
    for c in (0.9, 1.0, 1.1):
        flow_map = ResidualMap(Between(c), Linear())
        loss = loss_of(flow_map, tilted, consistency=0.0)
        slopes[c] = torch.autograd.grad(loss.total, flow_map.network.c)[0].item()
    assert abs(slopes[1.0]) < 1e-12
    assert slopes[0.9] < -0.01
    assert slopes[1.1] > 0.01


def test_states_are_the_maps_own_at_times_that_fill_the_interval():
    flow_map = normal(1.5)
    objective = OnPolicyDistillation(jumps=4)
    x0 = noise(5000, 1)
    x, s = objective.states(flow_map, x0, None, seeded())
    assert not x.requires_grad
    places = s.view(4, -1)
    for k in range(4):
        assert places[k].min() >= k / 4
        assert places[k].max() <= (k + 1) / 4
        assert places[k].mean().item() == pytest.approx((k + 0.5) / 4, abs=0.01)
    assert torch.allclose(x, flow_map(x0.repeat(4, 1), 0.0, s))  # exact jumps: one is as good


# --- the teachers -------------------------------------------------------------------------------
def test_each_prompt_has_its_teacher():
    """Squares (m - m')^2, in the ratio of the labels' shares."""
    teachers = {0: normal(1.0), 3: normal(-2.0)}
    labels = torch.tensor([0, 3, 3, 3]).repeat(1000)
    mixed = loss_of(normal(0.0), teachers, n=4000, cond=labels, consistency=0.0)
    expected = (1 / 4 * 1 + 3 / 4 * 4) * math.pi / 4
    assert mixed.total.item() == pytest.approx(expected, rel=0.02)
    texts = ["a shoe", "a bag", "a bag", "a bag"] * 1000
    teachers = {"a bag": normal(-2.0), "a shoe": normal(1.0)}
    found = loss_of(normal(0.0), teachers, n=4000, cond=texts, consistency=0.0)
    assert found.total == mixed.total


def test_a_teacher_is_told_the_condition():
    class ByLabel(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return cond.to(x)[:, None] + 0 * x

    teacher = ResidualMap(ByLabel(), Linear())
    student = ResidualMap(ByLabel(), Linear())
    student.network.gain = torch.nn.Parameter(torch.zeros(()))
    labels = torch.arange(5).repeat(10)
    for teachers in (teacher, dict.fromkeys(range(5), teacher)):
        assert loss_of(student, teachers, cond=labels).terms["diagonal"] == 0


def test_a_prompt_without_a_teacher_is_named():
    teachers = {0: normal(1.0), 3: normal(-2.0)}
    with pytest.raises(ValueError, match=r"no teacher for the prompt '1'.*0, 3"):
        loss_of(normal(0.0), teachers, n=2, cond=torch.tensor([0, 1]))


def test_a_teacher_on_another_path_is_refused():
    with pytest.raises(ValueError, match="Rescheduled"):
        loss_of(normal(0.0), ResidualMap(Normal(0.0), Trigonometric()))


def test_a_teacher_may_be_a_checkpoint_and_is_neither_trained_nor_saved(tmp_path):
    torch.manual_seed(0)
    recipe = {
        "_target_": "steer.flow_map.ResidualMap",
        "network": {"_target_": "steer.networks.Mlp", "dim": 1, "width": 8, "depth": 1},
        "schedule": {"_target_": "steer.interpolant.Linear"},
    }
    made = ResidualMap(Mlp(1, 8, 1), Linear())
    checkpoint.save(made, tmp_path / "map.safetensors", recipe)
    objective = OnPolicyDistillation(str(tmp_path))
    flow_map = ResidualMap(Mlp(1, 8, 1), Linear())
    objective.prepare(flow_map, flow_map, Tilt(never))
    (teacher,) = objective.frozen
    assert isinstance(teacher, FlowMap)
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert not objective.state_dict()
    x, s = torch.randn(4, 1), torch.rand(4)
    assert torch.equal(objective.taught(x, s, None), made.velocity(x, s))


# --- the Eulerian term --------------------------------------------------------------------------
def wrong_map():
    flow_map = ball_map(Matrix([[0.3, -0.5], [0.2, 0.1]]))
    flow_map.network.gain.data.fill_(1.3)
    return flow_map


def test_the_eulerian_term_is_that_of_training_at_the_maps_states():
    flow_map = wrong_map()
    x = noise(20)
    s = torch.linspace(0.05, 0.8, 20).double()
    t = torch.lerp(s, torch.ones_like(s), torch.linspace(0, 1, 20).double())
    objective = OnPolicyDistillation()
    found = objective.eulerian(flow_map, x, flow_map.velocity(x, s), s, t, None)
    pairs = Pairs(torch.zeros_like(x), x / s[:, None], s, t)
    expected = AverageEulerian()(flow_map, Target(flow_map, flow_map), pairs, seeded())
    torch.testing.assert_close(found, expected)
    assert found[1:].min() > 1e-4


def test_its_gradient_passes_through_the_jump_and_the_velocity_alone():
    """Finite differences in a weight, with the derivative held."""
    flow_map = wrong_map()
    weight = flow_map.network.more.weight
    x, s, t = noise(9), torch.linspace(0, 0.8, 9).double(), torch.ones(9).double()
    objective = OnPolicyDistillation()
    found = objective.eulerian(flow_map, x, flow_map.velocity(x, s), s, t, None).mean()
    (gradient,) = torch.autograd.grad(found, weight)
    with torch.no_grad():
        v = flow_map.velocity(x, s)
        _, du = torch.func.jvp(
            lambda x, s: flow_map.average_velocity(x, s, t), (x, s), (v, torch.ones_like(s))
        )
        for entry in ((0, 0), (1, 0)):
            values = []
            for sign in (1, -1):
                weight[entry] += sign * 1e-6
                u, v = flow_map.average_velocity(x, s, t), flow_map.velocity(x, s)
                values.append((u - (t - s)[:, None] * du - v).square().mean())
                weight[entry] -= sign * 1e-6
            slope = (values[0] - values[1]) / 2e-6
            torch.testing.assert_close(gradient[entry], slope, rtol=1e-5, atol=1e-8)


def test_the_terms_are_weighed_into_the_loss():
    for consistency in (0.0, 0.5):
        loss = loss_of(linear_map([[0.4]]), normal(0.3), consistency=consistency)
        expected = loss.terms["diagonal"] + consistency * loss.terms.get("off_diagonal", 0.0)
        assert torch.isclose(loss.total, expected)
        assert ("off_diagonal" in loss.terms) == (consistency > 0)


def test_it_costs_what_it_says():
    """K jumps; at each of K states a velocity with gradient, the teacher's, and one derivative."""
    with counting.count() as tally:
        loss_of(linear_map([[0.4]]), linear_map([[0.4]]), n=10, jumps=3, consistency=0.0)
    assert tally.network_forward == 10 * (3 + 3 + 3)


def test_a_teacher_tuned_in_noise_space_is_refused():
    """Its velocity is its base's, so that nothing would be learned of it."""
    from steer.maps import NoiseTilted

    teacher = NoiseTilted(ball_map(), ball_map())
    with pytest.raises(ValueError, match="tuned in noise space"):
        OnPolicyDistillation(teacher).prepare(ball_map(), ball_map(), Tilt(lambda x: x[:, 0]))
