"""TwoTimeDenoiser: with the D_{s,t} of a known flow, it is that flow."""

import itertools

import pytest
import torch
from chance import normal
from one_gaussian import MEAN, STD, flow
from torch import nn

from steer import counting
from steer.analytic import GaussianMixture
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.maps.rescheduled import Rescheduled
from steer.maps.two_time import TwoTimeDenoiser
from steer.samplers import Jump, Ode

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]
TIMES = torch.linspace(0, 0.99, 12, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


class Aim(nn.Module):
    """D_{s,t} of one Gaussian: its map solved for D, with the common factor taken out of both sides
    of the fraction: D = m + STD^2 (alpha_t sigma_s + alpha_s sigma_t) / (rho_t sigma_s + rho_s
    sigma_t) (x - alpha_s m) / rho_s.
    """

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, s, t, cond):
        assert s.shape == t.shape == x.shape[:1]
        (a, b, *_), (c, d, *_) = (
            (c[:, None] for c in self.schedule.coefficients(r)) for r in (s, t)
        )
        before = (a**2 * STD**2 + b**2).sqrt()
        after = (c**2 * STD**2 + d**2).sqrt()
        mean = MEAN.to(x) if cond is None else MEAN.to(x) + cond[:, None]
        factor = STD**2 * (c * b + a * d) / (after * b + before * d)
        return self.gain.to(x) * (mean + factor * (x - a * mean) / before)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def pairs():
    return torch.cartesian_prod(TIMES, torch.cat((TIMES, torch.ones(1).double()))).T


@every_schedule
def test_jumps_are_the_flow_both_ways(schedule):
    s, t = pairs()
    x = normal(len(s), 2)
    found = TwoTimeDenoiser(Aim(schedule), schedule)
    close(found(x, s, t), flow(schedule, x, s, t))
    close(found.lookahead(x, s), flow(schedule, x, s, 1.0))
    cond = torch.arange(len(s)).double()
    close(found(x, s, t, cond), flow(schedule, x, s, t, MEAN + cond[:, None]), 1e-8)


@every_schedule
def test_it_is_a_step_of_the_papers_form(schedule):
    """(sigma_t / sigma_s) x + (alpha_t - alpha_s sigma_t / sigma_s) D, whatever D is."""
    s, t = pairs()
    x = normal(len(s), 2)
    aim = normal(len(s), 2, seed=1)
    (a, b, *_), (c, d, *_) = (schedule.at(r, x) for r in (s, t))
    close(
        TwoTimeDenoiser(lambda x, s, t, cond: aim, schedule)(x, s, t),
        d / b * x + (c - a * d / b) * aim,
    )


@every_schedule
def test_velocity_denoiser_and_score_are_the_laws(schedule):
    law = GaussianMixture(MEAN, STD, schedule=schedule)
    x = normal(12, 2)
    found = TwoTimeDenoiser(Aim(schedule), schedule)
    close(found.velocity(x, TIMES), law.velocity(x, TIMES))
    close(found.denoise(x, TIMES), law.denoise(x, TIMES))
    close(found.score(x, TIMES), law.score(x, TIMES), 1e-7)


@every_schedule
def test_identity_and_tangent_up_to_the_data(schedule):
    t = torch.cat((TIMES, torch.tensor([1 - 1e-4, 1.0], dtype=torch.float64)))
    x = normal(len(t), 2)
    found = TwoTimeDenoiser(Aim(schedule), schedule)
    moved, tangent = torch.func.jvp(lambda r: found(x, t, r), (t,), (torch.ones_like(t),))
    close(moved, x, 0)
    close(tangent, found.velocity(x, t))


@every_schedule
def test_from_the_data_it_errs_by_the_margin(schedule):
    law = GaussianMixture(MEAN, STD, schedule=schedule)
    x = normal(5, 2)
    errors = []
    for margin in (1e-3, 1e-4):
        found = TwoTimeDenoiser(Aim(schedule), schedule, margin)
        back = (found(x, 1.0, 0.3) - flow(schedule, x, 1.0, 0.3)).norm(dim=1)
        errors.append(
            torch.stack((back, (found.velocity(x, 1.0) - law.velocity(x, 1.0)).norm(dim=1)))
        )
    assert (errors[0] < 0.05).all()
    assert torch.allclose(errors[0], 10 * errors[1], rtol=0.1)


def test_on_another_path():
    s, t = pairs()
    x = normal(len(s), 2)
    for old, new in itertools.permutations(SCHEDULES[:2], 2):
        close(Rescheduled(TwoTimeDenoiser(Aim(old), old), new)(x, s, t), flow(new, x, s, t), 1e-8)


def test_costs_derivatives_and_samplers():
    found = TwoTimeDenoiser(Aim(Linear()), Linear())
    x = normal(12, 2).requires_grad_()
    s = TIMES.clone().requires_grad_()
    for ask in (
        lambda: found(x, s, 0.7),
        lambda: found.velocity(x, s),
        lambda: found.lookahead(x, s),
    ):
        with counting.count() as tally:
            gradients = torch.autograd.grad(ask().square().sum(), (x, s, found.network.gain))
        assert (tally.network_forward, tally.network_backward) == (12, 12)
        assert all(g.isfinite().all() for g in gradients)
    whole, parts = (Jump(3, max_batch=batch)(found, x[None].detach()).x[0] for batch in (None, 5))
    close(whole, parts)
    close(whole, flow(Linear(), x, 0.0, 1.0))
    assert Ode(3)(found, x[None].detach()).x.isfinite().all()


def test_single_precision_is_good_to_five_digits_forwards():
    s, t = (r[pairs()[1] >= pairs()[0]] for r in pairs())
    x = normal(len(s), 2)
    found = TwoTimeDenoiser(Aim(Linear()).float(), Linear())(x.float(), s.float(), t.float())
    torch.testing.assert_close(found.double(), flow(Linear(), x, s, t), rtol=1e-5, atol=1e-5)


def test_the_margin_is_checked():
    for margin in (0.0, 0.5, float("nan")):
        with pytest.raises(
            ValueError, match=r"the margin is a time in \(0, 0.5\) to keep from t = 1"
        ):
            TwoTimeDenoiser(Aim(Linear()), Linear(), margin)
