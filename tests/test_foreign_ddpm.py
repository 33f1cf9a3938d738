"""Ddpm: what a table of steps leaves open, between its entries, beyond its ends, and at no signal
at all.
"""

import pytest
import torch
from chance import normal
from foreign_networks import ABAR, DdpmNetwork, mixture

from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.maps.conventions import Ddpm
from steer.maps.predictions import (
    CleanPrediction,
    NoisePrediction,
    SalimansHoPrediction,
    ScorePrediction,
    VelocityPrediction,
)

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
ENDS = torch.tensor([0.0, 1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9, 1.0], dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "prediction",
    [NoisePrediction(), CleanPrediction(), SalimansHoPrediction()],
    ids=lambda p: type(p).__name__,
)
@every_schedule
def test_ddpm_networks_may_predict_the_noise_the_clean_sample_or_v(prediction, schedule):
    steps = torch.linspace(5, 990, 25).round().long()
    t = schedule.time_at(ABAR[steps].sqrt(), (1 - ABAR[steps]).sqrt())
    x = normal(25, 2)
    model = Ddpm(DdpmNetwork(prediction), ABAR, schedule, prediction)
    close(model.velocity(x, t), mixture(schedule).velocity(x, t), 1e-8)
    close(model.network.asked[0], steps.double(), 1e-5)


def test_ddpm_between_its_steps():
    """Linear angles against a smooth curve through the same steps: worst next to the clean end."""
    angles = Ddpm(DdpmNetwork(), ABAR, Linear()).angles
    between = (angles[1:] + angles[:-1])[3::40] / 2
    t = Linear().time_at(between.cos(), between.sin())
    x = normal(len(between), 2)
    model = Ddpm(DdpmNetwork(), ABAR, Linear())
    error = (model.velocity(x, t) - mixture().velocity(x, t)).norm(dim=1)
    close(model.network.asked[0], torch.arange(999).double()[3::40] + 0.5, 1e-6)
    assert 1e-9 < error.max() < 1e-4


def test_ddpm_steps_are_not_rounded_to_half_precision():
    model = Ddpm(lambda z, step, cond: z, ABAR, Linear()).bfloat16()
    close(model.step(model.angles[[3, 500, 998]]), torch.tensor([3.0, 500.0, 998.0]).double())
    close(model.step(model.angles[[3, 500, 998]].float()), torch.tensor([3.0, 500.0, 998.0]), 1e-4)
    assert model.velocity(torch.ones(2, 3, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize("cls", [NoisePrediction, CleanPrediction, SalimansHoPrediction])
@every_schedule
def test_ddpm_beyond_its_table_errs_by_as_much_as_it_leaves_out(cls, schedule):
    x = normal(6, 2)
    model = Ddpm(DdpmNetwork(cls()), ABAR, schedule, cls())
    error = (model.velocity(x, ENDS) - mixture(schedule).velocity(x, ENDS)).norm(dim=1)
    speed = 1 + schedule(ENDS).d_alpha.abs()
    assert (error[:2] < 10 * speed[:2] * ABAR[-1].sqrt()).all()
    assert (error[4:] < 10 * speed[4:] * (1 - ABAR[0]).sqrt()).all()
    assert model.network.asked[0].min() == 0
    assert model.network.asked[0].max() <= 999


@every_schedule
def test_ddpm_with_zero_terminal_signal(schedule):
    abar = torch.cat((ABAR, ABAR.new_zeros(1)))

    class Network(DdpmNetwork):
        def learned(self, z, step, cond):  # at pure noise, v = -D = -E[x1]
            mean = (self.law.weights[:, None] * self.law.means).sum(0)
            return torch.where(
                step[:, None] > 999.999,
                -mean.expand_as(z),
                super().learned(z, step.clamp(max=999), cond),
            )

    prediction = SalimansHoPrediction()
    model = Ddpm(Network(prediction), abar, schedule, prediction)
    x = normal(4, 2)
    assert model.seen[0] == 0
    found = model.velocity(x, 0.0)
    exact = mixture(schedule).velocity(x, 0.0)
    close(found, exact, 1e-9 if schedule(0.0).alpha == 0 else 1e-1)
    with pytest.raises(
        ValueError, match="the last of alphas_cumprod is 0, where a noise prediction tells nothing"
    ):
        Ddpm(DdpmNetwork(), abar, schedule)


def test_ddpm_checks_its_table_and_prediction():
    for wrong in (ABAR.flip(0), ABAR[:1], ABAR[None], [1.0, 0.5], [0.5, -0.1], [0.5, 0.5]):
        with pytest.raises(
            ValueError, match="alphas_cumprod is a falling list of at least two numbers"
        ):
            Ddpm(DdpmNetwork(), wrong, Linear())
    for prediction in (VelocityPrediction(), ScorePrediction()):
        with pytest.raises(ValueError, match=r"depends on the path, .*; use NoisePrediction\(\)"):
            Ddpm(DdpmNetwork(), ABAR, Linear(), prediction)
