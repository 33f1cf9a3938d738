"""FMRG in both forms, step by step in closed form where the flow map is affine, and what it costs."""

import math

import pytest
import torch
from ball import Ball
from one_gaussian import MEAN, STD, OneGaussian, flow
from zoo import noise, seeded

from rewards import JpegSize, Quadratic
from rewards import Linear as LinearReward
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.samplers import FlowMapRewardGuidance, Jump
from steer.tilt import Tilt

A = torch.tensor([0.6, -1.1], dtype=torch.float64)
SCALES = torch.tensor([0.5, -2.0], dtype=torch.float64)  # one per prompt
STEPS, LAM, N_OPT = 3, 0.4, 2
paths = pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
forms = pytest.mark.parametrize("form", ["jacobian", "endpoint"])


def length(x):
    return x.norm(dim=1, keepdim=True)


@paths
@forms
@pytest.mark.parametrize("rescale", [False, True], ids=["as it is", "rescaled"])
@pytest.mark.parametrize("chord", [False, True], ids=["jump", "chord"])
def test_a_linear_reward_on_gaussian_data(schedule, form, rescale, chord):
    """X_{s,1} has the Jacobian STD / rho_s, rho_s^2 = alpha_s^2 STD^2 + sigma_s^2: each of n_opt gradients is known."""
    x0, pull = noise(2, 5, 2), SCALES.repeat_interleave(5)[:, None] * A
    x = x0.flatten(0, 1)
    for k in range(STEPS):
        s, t = k / STEPS, (k + 1) / STEPS
        (alpha_s, sigma_s, *_), (alpha_t, _, *_) = (map(float, schedule(r)) for r in (s, t))
        slope = STD / math.sqrt(alpha_s**2 * STD**2 + sigma_s**2) if form == "jacobian" else 1.0
        u = (flow(schedule, x, s, 1.0 if chord else t) - x) / ((1.0 if chord else t) - s)
        g = pull / length(pull) * length(u) if rescale else slope * pull
        if form == "jacobian":
            x = x + (t - s) * (u + N_OPT * LAM * g)
        else:
            x = x + (t - s) * u + alpha_t * sigma_s * N_OPT * LAM * g * ((t - s) if rescale else 1.0)
    sampler = FlowMapRewardGuidance(STEPS, form, LAM, N_OPT, rescale=rescale, chord=chord)
    result = sampler(OneGaussian(schedule), x0, Tilt(LinearReward(A), SCALES))
    torch.testing.assert_close(result.x.flatten(0, 1), x, rtol=1e-9, atol=1e-9)
    assert result.log_z is None
    torch.testing.assert_close(result.tilt.flatten(), SCALES.repeat_interleave(5) * (x @ A))


def test_the_published_weight_on_the_linear_path():
    """(1 - s) t: one step from .25 to .5 moves by .375 times what the endpoint does; on data the map leaves alone."""
    sampler = FlowMapRewardGuidance(2, "endpoint", 0.8, rescale=False)
    sampler.times = lambda: [0.25, 0.5]
    x0 = noise(1, 4, 2)
    moved = sampler(Ball(), x0, Tilt(LinearReward(A))).x - Ball()(x0[0], 0.25, 0.5)[None]
    torch.testing.assert_close(moved, (0.75 * 0.5 * 0.8 * A).expand(1, 4, 2))


@forms
def test_every_gradient_is_taken_where_the_last_one_led(form):
    """A quadratic reward, two steps of ascent, one jump, on standard normal data along the path that leaves it alone."""
    y0, precision, lam = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7, 0.3

    class Still(Ball):
        schedule = Trigonometric()

        def forward(self, x, s, t, cond=None):
            return 1.0 * x

    sampler = FlowMapRewardGuidance(1, form, lam, 2, rescale=False)
    x0 = noise(1, 4, 2)
    found = sampler(Still(), x0, Tilt(Quadratic(y0, precision))).x
    torch.testing.assert_close(found, y0 + (1 - lam * precision) ** 2 * (x0 - y0))


@forms
def test_the_strength_may_depend_on_time(form):
    """Guided in the second of two steps only."""
    x0, tilt, world = noise(1, 4, 2), Tilt(LinearReward(A)), OneGaussian(Linear())
    late = FlowMapRewardGuidance(2, form, lambda t: float(t > 0.4))(world, x0, tilt).x
    half = flow(Linear(), x0[0], 0.0, 0.5)
    u = (flow(Linear(), half, 0.5, 1.0) - half) / 0.5
    weight = 0.5 if form == "jacobian" else 0.5 * 1.0 * 0.5
    expected = half + 0.5 * u + weight * length(u) * A / A.norm()
    torch.testing.assert_close(late[0], expected)


@forms
def test_without_a_pull_it_is_the_jumps_of_the_map(form):
    x0, world = noise(2, 4, 2), OneGaussian(VariancePreserving())
    plain = Jump(STEPS)(world, x0).x
    none = FlowMapRewardGuidance(STEPS, form)(world, x0, Tilt(LinearReward(A), 0.0)).x
    unguided = FlowMapRewardGuidance(STEPS, form, guided=0)(world, x0, Tilt(LinearReward(A))).x
    torch.testing.assert_close(none, plain)
    torch.testing.assert_close(unguided, plain)


def test_what_is_left_after_the_guided_steps_is_one_jump():
    x0, world, tilt = noise(1, 4, 2), OneGaussian(Linear()), Tilt(LinearReward(A))
    sampler = FlowMapRewardGuidance(5, strength=0.5, guided=2)
    assert sampler.times() == pytest.approx([0, 0.2, 0.4, 1])
    found = sampler(world, x0, tilt)
    assert found.trace["reward"].shape == (3, 1)
    halted = FlowMapRewardGuidance(5, strength=0.5)
    halted.times = lambda: [0.0, 0.2, 0.4]
    torch.testing.assert_close(found.x[0], flow(Linear(), halted(world, x0, tilt).x[0], 0.4, 1.0))


def test_the_trace_has_the_reward_where_each_step_would_have_landed():
    result = FlowMapRewardGuidance(2)(OneGaussian(Linear()), noise(2, 3, 2), Tilt(LinearReward(A), SCALES))
    ends = MEAN + STD * noise(2, 3, 2)
    torch.testing.assert_close(result.trace["reward"][0], (ends @ A).mean(1))


N = 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # A jump to the end and one along the step, which in the last step is the same.
        ({}, (2 * N - 1, N, N + 1, N)),
        ({"n_opt": 3}, (4 * N - 1, 3 * N, 3 * N + 1, 3 * N)),
        ({"chord": True}, (N, N, N + 1, N)),
        ({"form": "endpoint"}, (2 * N - 1, 0, N + 1, N)),
        ({"form": "endpoint", "n_opt": 3, "chord": True}, (N, 0, 3 * N + 1, 3 * N)),
        # Two guided steps, one jump, and the reward where it landed.
        ({"guided": 2}, (5, 2, 4, 2)),
    ],
)
def test_cost_per_returned_sample(settings, expected):
    for most in (None, 3):
        sampler = FlowMapRewardGuidance(N, **settings, max_batch=most)
        e = sampler(Ball(), noise(2, 4, 2), Tilt(Quadratic([1.0, 0.0], 3.0)), None, seeded()).evaluations
        assert (e.network_forward, e.network_backward, e.reward_forward, e.reward_backward) == pytest.approx(expected)


def test_refusals():
    x0 = noise(1, 2, 2)
    with pytest.raises(ValueError, match="form is one of jacobian, endpoint; got 'j'"):
        FlowMapRewardGuidance(form="j")
    with pytest.raises(ValueError, match=r"guided in 0 \.\.\. steps; got n_opt=1, guided=9"):
        FlowMapRewardGuidance(8, guided=9)
    with pytest.raises(ValueError, match=r"climbs a reward; pass tilt="):
        FlowMapRewardGuidance()(Ball(), x0)
    with pytest.raises(ValueError, match=r"JpegSize has no gradient .* use FkSteering or BestOfN"):
        FlowMapRewardGuidance()(Ball(), torch.rand(1, 2, 1, 8, 8), Tilt(JpegSize()))
    for form in ("jacobian", "endpoint"):
        with pytest.raises(ValueError, match=r"has no gradient \(torch cannot follow"):
            FlowMapRewardGuidance(form=form)(Ball(), x0, Tilt(lambda x: x.detach().sum(1)))
        with pytest.raises(ValueError, match="the gradient of <lambda> is not finite for sample 0 at t = 0;"):
            FlowMapRewardGuidance(form=form)(Ball(), x0, Tilt(lambda x: (x[:, 0] - x[:, 0]).sqrt()))
