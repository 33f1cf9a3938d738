"""ConsistencyMap: jumps to data by the network; the rest by its teacher, or refused."""

import pytest
import torch
from chance import normal
from one_gaussian import MEAN, STD, flow
from torch import nn

from steer import ConsistencyMap, Rescheduled, counting
from steer.analytic import GaussianMixture
from steer.flow_map import OdeMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Denoiser, MapJump
from steer.networks import ClassCondition, Mlp
from steer.samplers import Jump, Ode

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
TIMES = torch.linspace(0, 1, 21, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


class Landing(nn.Module):
    """X_{t,1} of one Gaussian, the exact consistency function; a condition shifts it."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, cond):
        assert t.shape == x.shape[:1]
        x1 = flow(self.schedule, x, t, 1.0)
        return self.gain.to(x) * (x1 if cond is None else x1 + cond[:, None])


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def law(schedule, steps=64):
    return GaussianMixture(MEAN, STD, schedule=schedule, steps=steps)


@every_schedule
def test_a_jump_to_data_is_the_networks(schedule):
    found = ConsistencyMap(Landing(schedule), schedule)
    x = normal(21, 2)
    close(found(x, TIMES, 1.0), law(schedule)(x, TIMES, 1.0), 1e-5)
    close(found.lookahead(x, TIMES), found(x, TIMES, torch.ones(21)), 0)
    close(found(x, 1.0, 1.0), x)
    cond = torch.arange(21.0).double()
    close(found(x, TIMES, 1.0, cond), found(x, TIMES, 1.0) + cond[:, None])
    close(MapJump()(found, x, TIMES).x1[0], found.lookahead(x, TIMES), 0)


@pytest.mark.parametrize("t", [0.0, 0.9, 1 - 1e-9, torch.tensor([1.0, 1.0, 0.5])], ids=str)
def test_other_jumps_are_refused_with_the_way_out(t):
    with pytest.raises(
        ValueError, match=r"jumps to the data, t = 1, only; got t = .*Jump\(renoise=True\)"
    ) as error:
        ConsistencyMap(Landing(Linear()), Linear())(normal(3, 2), 0.0, t)
    assert "\n" not in str(error.value)


def test_without_a_velocity_there_is_none():
    found = ConsistencyMap(Landing(Linear()), Linear())
    x = normal(3, 2)
    for ask in (found.velocity, found.denoise, found.score, found.endpoints):
        with pytest.raises(
            ValueError, match=r"no velocity, hence no denoiser or score; .*Jump\(renoise=True\)"
        ) as error:
            ask(x, 0.5)
        assert "\n" not in str(error.value)


@every_schedule
def test_with_the_teacher_it_answers_everything_else(schedule):
    teacher = law(schedule)
    found = ConsistencyMap(Landing(schedule), schedule, teacher)
    x = normal(21, 2)
    inside = TIMES.clamp(0.05, 0.95)
    close(found.velocity(x, TIMES), teacher.velocity(x, TIMES))
    close(found.denoise(x, inside), teacher.denoise(x, inside))
    close(found.score(x, inside), teacher.score(x, inside))
    close(Denoiser()(found, x, inside).x1, Denoiser()(teacher, x, inside).x1)
    ode = OdeMap(found, schedule, steps=64)
    close(ode(x, 0.2, 0.7), teacher(x, 0.2, 0.7), 1e-5)
    close(Ode(16)(found, x[None]).x, Ode(16)(teacher, x[None]).x)


def test_the_teacher_must_be_on_the_same_path():
    network = Landing(Linear())
    teacher = law(Trigonometric())
    with pytest.raises(
        ValueError,
        match=r"run on steer.Linear\(\), the velocity on steer.Trigonometric\(\); pass steer.Re",
    ):
        ConsistencyMap(network, Linear(), teacher)
    found = ConsistencyMap(network, Linear(), Rescheduled(teacher, Linear()))
    x = normal(21, 2)
    close(found.velocity(x, TIMES), law(Linear()).velocity(x, TIMES))


@every_schedule
def test_sampling_by_jumps_and_fresh_noise_draws_the_law(schedule):
    """Mean and spread of 4000 samples, to four standard errors, at one evaluation a jump."""
    found = ConsistencyMap(Landing(schedule), schedule)
    x0 = normal(1, 4000, 2)
    for steps in (1, 4):
        with counting.count() as tally:
            x = Jump(steps, renoise=True)(found, x0, generator=torch.Generator().manual_seed(1)).x[
                0
            ]
        assert tally.network_forward == 4000 * steps
        assert (x.mean(0) - MEAN[0]).abs().max() < 4 * STD / 4000**0.5
        assert (x.std(0) - STD).abs().max() < 4 * STD / 8000**0.5
    close(Jump(1)(found, x0).x[0], found(x0[0], 0.0, 1.0))
    with pytest.raises(ValueError, match=r"Jump\(renoise=True\)"):
        Jump(2)(found, x0)


@every_schedule
def test_on_another_path_it_is_still_a_consistency_map(schedule):
    x = normal(21, 2)
    for new in SCHEDULES:
        found = Rescheduled(ConsistencyMap(Landing(schedule), schedule), new)
        t = TIMES.clamp(min=0.05)  # where a variance-preserving path has begun
        close(found.lookahead(x, t), Landing(new)(x, t, None))
        with pytest.raises(ValueError, match="jumps to the data"):
            found(x, 0.2, 0.7)


def test_derivatives_cost_and_parameters():
    found = ConsistencyMap(Landing(Linear()), Linear())
    x = normal(21, 2).requires_grad_()
    t = TIMES
    with counting.count() as tally:
        found.lookahead(x, t).sum().backward()
    assert (tally.network_forward, tally.network_backward) == (21, 21)
    assert x.grad.abs().min() > 0
    assert found.network.gain.grad.abs() > 0
    _, moving = torch.func.jvp(
        found.lookahead,
        (x.detach(), t),
        (law(Linear()).velocity(x.detach(), t), torch.ones_like(t)),
    )
    close(moving, 0 * moving)  # a landing does not change along the flow
    network = Mlp(2, 8, 1, ClassCondition(3, 8))
    assert {id(p) for p in ConsistencyMap(network, Linear()).parameters()} == {
        id(p) for p in network.parameters()
    }


def test_single_precision():
    x = normal(21, 2)
    found = ConsistencyMap(Landing(Linear()).float(), Linear())(x.float(), TIMES.float(), 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), Landing(Linear())(x, TIMES, None), rtol=1e-5, atol=1e-6
    )
