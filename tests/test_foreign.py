"""Foreign networks, faked by what they would have learned in their own variables, are the oracle in
ours.

What is particular to Ddpm is in test_foreign_ddpm.py.
"""

import math

import pytest
import torch
from chance import normal
from foreign_networks import ABAR, SIGMA_DATA, DdpmNetwork, EdmNetwork, TrigNetwork, mixture
from one_gaussian import MEAN, STD, flow

from steer import counting
from steer.interpolant import Linear, Trigonometric, VariancePreserving, expand
from steer.maps.consistency import ConsistencyMap
from steer.maps.conventions import Ddpm, Edm, TrigFlow, TrigFlowJump
from steer.maps.rescheduled import Rescheduled
from steer.samplers import Jump, Ode
from steer.solvers import Euler, Rk4

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
INSIDE = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9, 1.0], dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


MODELS = {
    "edm": lambda schedule, **more: Edm(
        EdmNetwork(), SIGMA_DATA, schedule, sigma_max=200.0, **more
    ),
    "trig": lambda schedule, **more: TrigFlow(TrigNetwork(), SIGMA_DATA, schedule, **more),
    "ddpm": lambda schedule, **more: Ddpm(DdpmNetwork(), ABAR, schedule, **more),
}
every_model = pytest.mark.parametrize("name", MODELS)


def known(name, schedule, n=25):
    """Times at which the model is exact: for Ddpm those of its steps."""
    if name != "ddpm":
        return INSIDE
    steps = torch.linspace(5, 990, n).round().long()
    return schedule.time_at(ABAR[steps].sqrt(), (1 - ABAR[steps]).sqrt()).clamp(min=0)


# What all owe


@every_schedule
@every_model
def test_the_foreign_network_is_the_oracle_on_our_path(name, schedule):
    t = known(name, schedule)
    x = normal(25, 2)
    cond = torch.arange(25) % 4 - 1
    model = MODELS[name](schedule)
    law = mixture(schedule)
    close(model.velocity(x, t), law.velocity(x, t), 1e-8)
    close(model.denoise(x, t), law.denoise(x, t), 1e-8)
    close(model.score(x, t), law.score(x, t), 1e-7)
    close(model.velocity(x, t, cond), law.velocity(x, t, cond), 1e-8)


@every_model
def test_jumps_are_the_flow(name):
    x = normal(8, 2)
    law = mixture(Trigonometric())
    model = MODELS[name](law.schedule, steps=16, solver=Rk4())
    tolerance = 1e-4
    close(model(x, 0.25, 0.75), law(x, 0.25, 0.75), tolerance)
    close(model(x, 0.75, 0.25), law(x, 0.75, 0.25), tolerance)


@every_model
def test_another_path_afterwards_is_another_path_at_once(name):
    x = normal(25, 2)
    t = known(name, Linear())
    close(
        Rescheduled(MODELS[name](Trigonometric()), Linear()).velocity(x, t),
        MODELS[name](Linear()).velocity(x, t),
        1e-8,
    )


@every_schedule
@every_model
def test_one_question_costs_one_evaluation_and_gradients_flow(name, schedule):
    t = torch.cat((ENDS, INSIDE[::6])).requires_grad_()
    x = normal(11, 2).requires_grad_()
    model = MODELS[name](schedule, steps=3, solver=Euler())
    for ask, cost in ((model.velocity, 1), (model.denoise, 1), (lambda x, t: model(x, t, 0.5), 3)):
        with counting.count() as tally:
            gradients = torch.autograd.grad(ask(x, t).square().sum(), (x, t, model.network.gain))
        assert (tally.network_forward, tally.network_backward) == (11 * cost, 11 * cost)
        assert all(g.isfinite().all() for g in gradients)
        assert gradients[2].abs() > 0
    _, tangent = torch.func.jvp(
        model.velocity, (x.detach(), t.detach()), (x.detach(), torch.ones_like(t))
    )
    assert tangent.isfinite().all()


@every_schedule
@pytest.mark.parametrize("name", ["edm", "trig"])  # between its steps the clock of Ddpm has corners
def test_derivatives_in_place_and_time_are_the_oracles(name, schedule):
    x = normal(25, 2)
    way = (normal(25, 2, seed=1), torch.ones_like(INSIDE))
    _, found = torch.func.jvp(MODELS[name](schedule).velocity, (x, INSIDE), way)
    _, exact = torch.func.jvp(mixture(schedule).velocity, (x, INSIDE), way)
    close(found, exact, 1e-7)


@every_schedule
@every_model
def test_single_precision_is_good_to_four_digits(name, schedule):
    t = known(name, schedule)[2:-2]
    x = normal(21, 2)
    found = MODELS[name](schedule).float().velocity(x.float(), t.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), mixture(schedule).velocity(x, t), rtol=2e-4, atol=2e-4
    )


@every_model
def test_samplers_images_and_max_batch(name):
    build = {"edm": lambda f: Edm(f, 0.5, Linear()), "trig": lambda f: TrigFlow(f, 0.5, Linear())}
    model = build.get(name, lambda f: Ddpm(f, ABAR, Linear()))(
        lambda y, level, cond: y * expand(level.cos(), y)
    )
    x = normal(2, 4, 3, 5, 5)
    whole, parts = (Ode(5, max_batch=batch)(model, x).x for batch in (None, 3))
    assert whole.isfinite().all()
    close(whole, parts)


@every_model
def test_wrong_arguments_are_named(name):
    with pytest.raises(ValueError, match="needs at least one step for its jumps; got steps=0"):
        MODELS[name](Linear(), steps=0)


@pytest.mark.parametrize("cls", [Edm, TrigFlow, TrigFlowJump])
def test_sigma_data_is_positive(cls):
    for sigma_data in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match="sigma_data is the standard deviation of the data, above 0; got"
        ):
            cls(EdmNetwork(), sigma_data, Linear())


# EDM


@every_schedule
def test_edm_beyond_its_noise_levels_errs_by_as_much_as_they_leave_out(schedule):
    x = normal(6, 2)
    exact = mixture(schedule).velocity(x, ENDS)
    errors = []
    for low, high in ((2e-3, 80.0), (2e-4, 800.0)):
        model = Edm(EdmNetwork(), SIGMA_DATA, schedule, low, high)
        errors.append((model.velocity(x, ENDS) - exact).norm(dim=1)[[0, 1, 4, 5]])
        levels = (4 * model.network.asked[0]).exp()
        assert low * (1 - 1e-9) < levels.min()
        assert levels.max() < high * (1 + 1e-9)
    scale = 1 + schedule(ENDS[[0, 1, 4, 5]]).d_alpha.abs()
    bound = torch.tensor([1 / 80, 1 / 80, 2e-3, 2e-3]) * scale * 10
    assert (errors[0] < bound).all()
    assert (errors[1] < errors[0] / 5).all()


def test_edm_wants_its_noise_levels_in_order():
    for levels in ((0.0, 80.0), (80.0, 0.002), (1.0, 1.0)):
        with pytest.raises(ValueError, match="needs noise levels 0 < sigma_min < sigma_max"):
            Edm(EdmNetwork(), 0.5, Linear(), *levels)


# TrigFlow


@every_schedule
def test_trigflow_is_exact_at_both_ends(schedule):
    x = normal(6, 2)
    model = TrigFlow(TrigNetwork(), SIGMA_DATA, schedule)
    close(model.velocity(x, ENDS), mixture(schedule).velocity(x, ENDS), 1e-8)
    assert float(model.network.asked[0].max()) <= math.pi / 2
    assert float(model.network.asked[0].min()) == 0


def test_trigflow_of_unit_variance_is_our_trigonometric_path():
    model = TrigFlow(lambda y, theta, cond: y + theta[:, None], 1.0, Trigonometric())
    seen = normal(6, 2)
    theta = math.pi / 2 * (1 - ENDS)
    close(model.velocity(seen, ENDS), -math.pi / 2 * (seen + theta[:, None]))


@every_schedule
def test_a_trigflow_consistency_network_is_a_consistency_map(schedule):
    """Of one Gaussian: X_{t,1} is known, and F = (cos z - X_{t,1}) / (sin sigma_data) what sCM
    learns.
    """

    def network(y, theta, cond):
        cos = theta.cos()[:, None]
        sin = theta.sin()[:, None]
        z = SIGMA_DATA * y
        landing = MEAN + STD * (z - cos * MEAN) / (cos**2 * STD**2 + SIGMA_DATA**2 * sin**2).sqrt()
        return (cos * z - landing) / (SIGMA_DATA * sin.clamp(min=1e-12))

    found = ConsistencyMap(TrigFlowJump(network, SIGMA_DATA, schedule), schedule)
    x = normal(31, 2)
    t = torch.cat((ENDS, INSIDE))
    close(found.lookahead(x, t), flow(schedule, x, t, 1.0), 1e-6)
    with counting.count() as tally:
        Jump(3, renoise=True)(found, normal(1, 5, 2))
    assert tally.network_forward == 15
