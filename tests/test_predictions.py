"""Predictions: each is what its paper says it is, gives the pair back, and makes an exact model out
of an exact network.
"""

import math

import pytest
import torch
from chance import normal
from torch import nn

from steer import counting
from steer.analytic import GaussianMixture
from steer.interpolant import Endpoints, Linear, Trigonometric, VariancePreserving
from steer.maps.predictions import (
    CleanPrediction,
    NoisePrediction,
    Predicted,
    SalimansHoPrediction,
    ScorePrediction,
    VelocityPrediction,
)
from steer.maps.rescheduled import Rescheduled
from steer.samplers import Ode
from steer.solvers import Euler, Rk4

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
PREDICTIONS = [
    VelocityPrediction(),
    CleanPrediction(),
    NoisePrediction(),
    ScorePrediction(),
    SalimansHoPrediction(),
]
INSIDE = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9, 1.0], dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_prediction = pytest.mark.parametrize(
    "prediction", PREDICTIONS, ids=lambda p: type(p).__name__
)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def mixture(schedule, steps=32):
    return GaussianMixture(
        [[1.0, -2.0], [0.5, 1.0], [-2.0, 0.0]],
        [0.5, 0.7, 1.1],
        [1.0, 2.0, 3.0],
        schedule,
        steps=steps,
    )


class Perfect(nn.Module):
    """What a network of unlimited capacity would have learned."""

    def __init__(self, prediction, law):
        super().__init__()
        self.prediction = prediction
        self.law = law
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.asked = []

    def forward(self, x, t, cond):
        assert t.shape == x.shape[:1]
        self.asked.append(t.detach())
        if isinstance(self.prediction, ScorePrediction):
            t = t.clamp(
                max=1 - 1e-12
            )  # where the conversion that fakes the network is still defined
        output = self.prediction.output(self.law.endpoints(x, t, cond), x, t, self.law.schedule)
        return output * self.gain.to(x)


def model(prediction, schedule, **more):
    return Predicted(Perfect(prediction, mixture(schedule)), prediction, schedule, **more)


# Predictions


@every_schedule
@every_prediction
def test_any_pair_comes_back(prediction, schedule):
    pair = Endpoints(normal(25, 2), normal(25, 2, seed=1))
    x = schedule.interpolate(pair.noise, pair.clean, INSIDE)
    back = prediction.endpoints(prediction.output(pair, x, INSIDE, schedule), x, INSIDE, schedule)
    close(back.clean, pair.clean)
    close(back.noise, pair.noise)


@every_schedule
def test_predictions_are_what_their_papers_say(schedule):
    """Against the law's own velocity, posterior mean and log density."""
    law = mixture(schedule)
    t = INSIDE
    x = normal(25, 2)
    alpha, sigma, _, _ = (c[:, None] for c in schedule(t))
    score = torch.func.grad(lambda x: law.log_prob(x, t).sum())(x)
    clean = law.denoise(x, t)
    noise = -sigma * score
    said = [prediction.output(law.endpoints(x, t), x, t, schedule) for prediction in PREDICTIONS]
    v = (alpha * noise - sigma * clean) / (alpha**2 + sigma**2).sqrt()
    for output, exact in zip(said, (law.velocity(x, t), clean, noise, score, v), strict=True):
        close(output, exact)


def test_the_v_of_salimans_and_ho_is_the_velocity_backwards_on_the_circle():
    law = mixture(Trigonometric())
    x = normal(25, 2)
    v = SalimansHoPrediction().output(law.endpoints(x, INSIDE), x, INSIDE, law.schedule)
    close(law.velocity(x, INSIDE), -math.pi / 2 * v)


def test_predictions_of_the_ratio_are_the_same_on_every_path():
    """Same signal to noise, same output, whatever the scale of x: what networks of other
    conventions rely on.
    """
    law = mixture(Linear())
    other = mixture(Trigonometric())
    x = normal(25, 2)
    y, t = Rescheduled(law, other.schedule).inner(x, INSIDE)
    for prediction in PREDICTIONS:
        ours = prediction.output(law.endpoints(y, t), y, t, law.schedule)
        theirs = prediction.output(other.endpoints(x, INSIDE), x, INSIDE, other.schedule)
        assert torch.allclose(ours, theirs, rtol=1e-9) == prediction.of_the_ratio


@every_schedule
def test_what_a_prediction_cannot_tell_is_refused(schedule):
    x = normal(3, 2)
    for prediction in PREDICTIONS:
        first, last = prediction.seen(schedule, 0.25)
        assert (first, last) == (
            0.25
            if isinstance(prediction, NoisePrediction | ScorePrediction)
            and schedule(0.0).alpha == 0
            else 0.0,
            0.75 if isinstance(prediction, CleanPrediction) else 1.0,
        )
        for t, seen in ((0.0, first == 0), (1.0, last == 1)):
            if seen:
                assert all(
                    half.isfinite().all() for half in prediction.endpoints(x, x, t, schedule)
                )
            else:
                with pytest.raises(ValueError, match="cannot be read off"):
                    prediction.endpoints(x, x, t, schedule)


# Predicted


@every_schedule
@every_prediction
def test_a_perfect_network_makes_an_exact_model(prediction, schedule):
    law = mixture(schedule)
    x = normal(25, 2)
    t = INSIDE
    found = model(prediction, schedule)
    close(found.velocity(x, t), law.velocity(x, t))
    close(found.denoise(x, t), law.denoise(x, t), 1e-8)
    close(found.score(x, t), law.score(x, t), 1e-8)
    cond = torch.arange(25) % 4 - 1
    close(found.velocity(x, t, cond), law.velocity(x, t, cond))


@every_schedule
@every_prediction
def test_at_the_ends_it_is_exact_or_errs_by_the_margin(prediction, schedule):
    x = normal(4, 2)
    t = torch.tensor([0.0, 1e-9, 1 - 1e-9, 1.0], dtype=torch.float64)
    exact = mixture(schedule).velocity(x, t)
    errors = [
        (model(prediction, schedule, margin=m).velocity(x, t) - exact).norm(dim=1)
        for m in (1e-3, 1e-4)
    ]
    first, last = prediction.seen(schedule, 1e-3)
    blind = torch.tensor([first > 0] * 2 + [last < 1] * 2)
    assert (errors[0][~blind] < 1e-8).all()
    assert (errors[0][blind] < 10e-3).all()
    assert torch.allclose(errors[0][blind], 10 * errors[1][blind], rtol=0.05)


@every_prediction
def test_the_network_is_asked_at_least_the_margin_from_a_blind_end(prediction):
    found = model(prediction, Linear(), margin=0.125)
    found.velocity(normal(6, 2), ENDS)
    first, last = prediction.seen(Linear(), 0.125)
    close(found.network.asked[0], ENDS.clamp(first, last))


@every_prediction
def test_a_jump_is_the_ode_of_its_velocity(prediction):
    x = normal(8, 2)
    law = mixture(Trigonometric())
    found = model(prediction, law.schedule, steps=8, solver=Rk4())
    close(found(x, 0.25, 0.75), law(x, 0.25, 0.75), 1e-4)
    cond = torch.arange(8) % 4 - 1
    close(found(x, 0.75, 0.25, cond), law(x, 0.75, 0.25, cond), 1e-4)
    assert found(x, 0.0, 1.0).isfinite().all()


@every_prediction
def test_a_diffusion_model_is_asked_on_any_path(prediction):
    """Trained on the variance-preserving path, sampled on the straight one."""
    x = normal(25, 2)
    law = mixture(Linear())
    found = Rescheduled(model(prediction, VariancePreserving()), Linear())
    close(found.velocity(x, INSIDE), law.velocity(x, INSIDE), 1e-8)
    close(found.denoise(x, INSIDE), law.denoise(x, INSIDE), 1e-8)


@every_prediction
def test_costs(prediction):
    x = normal(5, 2)
    found = model(prediction, Linear(), steps=3, solver=Euler())
    for ask, cost in (
        (lambda: found.velocity(x, 0.5), 5),
        (lambda: found.denoise(x, 0.5), 5),
        (lambda: found.score(x, 0.5), 5),
        (lambda: found(x, 0.1, 0.9), 15),
    ):
        with counting.count() as tally:
            ask()
        assert tally.network_forward == cost
    with counting.count() as tally:
        found.velocity(x.clone().requires_grad_(), 0.5).sum().backward()
    assert tally.network_backward == 5


@every_schedule
@every_prediction
def test_derivatives_flow_forwards_and_backwards(prediction, schedule):
    t = INSIDE.clone()
    x = normal(25, 2)
    way = (normal(25, 2, seed=1), torch.ones_like(t))
    _, found = torch.func.jvp(model(prediction, schedule).velocity, (x, t), way)
    _, exact = torch.func.jvp(mixture(schedule).velocity, (x, t), way)
    close(found, exact, 1e-7)
    asked = model(prediction, schedule)
    asked.velocity(x, t).square().sum().backward()
    assert asked.network.gain.grad.abs() > 0
    at_ends = ENDS.clone().requires_grad_()
    x = normal(6, 2).requires_grad_()
    for gradient in torch.autograd.grad(asked.velocity(x, at_ends).square().sum(), (x, at_ends)):
        assert gradient.isfinite().all()


@every_schedule
@every_prediction
def test_single_precision_is_good_to_four_digits(prediction, schedule):
    """For alpha and sigma above .02: reading D off the noise, or the noise off D, divides the
    rounding by either.
    """
    t = INSIDE[2:-2]
    x = normal(21, 2)
    single = Predicted(Perfect(prediction, mixture(schedule).float()), prediction, schedule)
    found = single.velocity(x.float(), t.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), mixture(schedule).velocity(x, t), rtol=1e-4, atol=1e-4
    )


def test_images_samplers_and_max_batch():
    found = Predicted(
        lambda x, t, cond: torch.zeros_like(x), CleanPrediction(), Linear()
    )  # all data at 0
    x = normal(2, 4, 3, 5, 5)
    close(found.velocity(x[0], 0.5), -2 * x[0])
    whole, parts = (Ode(5, max_batch=batch)(found, x).x for batch in (None, 3))
    close(whole, parts)
    close(whole, 0 * x)


def test_wrong_arguments_are_named():
    for margin in (0.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"the margin is a time in \(0, 0.5\)"):
            model(NoisePrediction(), Linear(), margin=margin)
    with pytest.raises(
        ValueError, match="Predicted needs at least one step for its jumps; got steps=0"
    ):
        model(NoisePrediction(), Linear(), steps=0)
