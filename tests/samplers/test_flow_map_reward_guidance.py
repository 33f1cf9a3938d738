"""FMRG in both forms: steps in closed form where the flow map is affine, and cost."""

import math

import pytest
import torch
from ball import Ball
from one_gaussian import MEAN, STD, OneGaussian, flow
from zoo import noise, seeded

from rewards import JpegSize, Quadratic
from rewards import Linear as LinearReward
from steer.analytic.benchmarks import ring_of_eight
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.samplers import FlowMapRewardGuidance, Jump
from steer.tilt import Tilt

A = torch.tensor([0.6, -1.1], dtype=torch.float64)
SCALES = torch.tensor([0.5, -2.0], dtype=torch.float64)  # one per prompt
STEPS, LAM, N_OPT = 3, 0.4, 2
paths = pytest.mark.parametrize(
    "schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr
)
forms = pytest.mark.parametrize("form", ["jacobian", "endpoint"])


def length(x):
    return x.norm(dim=1, keepdim=True)


def first_step(g):
    """Adam's, at rate 1, and every one after it while the gradient stays what it is."""
    return g / (g.abs() + 1e-8)


@paths
@forms
@pytest.mark.parametrize("ascent", ["adam", "plain", "rescaled"])
@pytest.mark.parametrize("chord", [False, True], ids=["jump", "chord"])
def test_a_linear_reward_on_gaussian_data(schedule, form, ascent, chord):
    """X_{s,1} has the Jacobian STD / rho_s, rho_s^2 = alpha_s^2 STD^2 + sigma_s^2: each of n_opt
    gradients is known.
    """
    x0, pull = noise(2, 5, 2), SCALES.repeat_interleave(5)[:, None] * A
    x = x0.flatten(0, 1)
    for k in range(STEPS):
        s, t = k / STEPS, (k + 1) / STEPS
        (alpha_s, sigma_s, *_), (alpha_t, _, *_) = (map(float, schedule(r)) for r in (s, t))
        slope = STD / math.sqrt(alpha_s**2 * STD**2 + sigma_s**2) if form == "jacobian" else 1.0
        u = (flow(schedule, x, s, 1.0 if chord else t) - x) / ((1.0 if chord else t) - s)
        g = {
            "adam": (1 - s) * first_step(slope * pull),
            "plain": slope * pull,
            "rescaled": pull / length(pull) * length(u),
        }[ascent]
        weight = t - s if form == "jacobian" else alpha_t * sigma_s
        x = x + (t - s) * u + weight * N_OPT * LAM * g
    settings = {"adam": {}, "plain": {"adam": False}, "rescaled": {"rescale": True}}[ascent]
    sampler = FlowMapRewardGuidance(STEPS, form, LAM, N_OPT, chord=chord, **settings)
    result = sampler(OneGaussian(schedule), x0, Tilt(LinearReward(A), SCALES))
    torch.testing.assert_close(result.x.flatten(0, 1), x, rtol=1e-9, atol=1e-9)
    assert result.log_z is None
    torch.testing.assert_close(result.tilt.flatten(), SCALES.repeat_interleave(5) * (x @ A))


def test_the_published_weight_on_the_linear_path():
    """(1 - s) t: one step from .25 to .5 moves by .375 times what the endpoint does; on data the
    map leaves alone.
    """
    x0 = noise(1, 4, 2)
    for adam, end in ((False, 0.8 * A), (True, 0.8 * 0.75 * first_step(A))):
        sampler = FlowMapRewardGuidance(2, "endpoint", 0.8, adam=adam)
        sampler.times = lambda: [0.25, 0.5]
        moved = sampler(Ball(), x0, Tilt(LinearReward(A))).x - Ball()(x0[0], 0.25, 0.5)[None]
        torch.testing.assert_close(moved, (0.75 * 0.5 * end).expand(1, 4, 2))


class Still(Ball):
    """Standard normal data along the path that leaves them alone."""

    schedule = Trigonometric()

    def forward(self, x, s, t, cond=None):
        return 1.0 * x


@forms
def test_two_steps_of_adam_by_hand(form):
    """A quadratic reward, one jump. The second step has the means (.09 g + .1 h) / .19 and (.999
    g^2 + h^2) / 1.999.
    """
    y0, precision, lam = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7, 0.3
    x0, tilt = noise(1, 4, 2), Tilt(Quadratic(y0, precision), 2.0)
    g = -2 * precision * (x0 - y0)
    once = x0 + lam * first_step(g)
    h = -2 * precision * (once - y0)
    mean, square = (0.09 * g + 0.1 * h) / 0.19, (0.999 * g**2 + h**2) / 1.999
    twice = once + lam * mean / (square.sqrt() + 1e-8)
    for n_opt, expected in ((1, once), (2, twice)):
        found = FlowMapRewardGuidance(1, form, lam, n_opt)(Still(), x0, tilt).x
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@forms
def test_adam_starts_afresh_at_every_jump(form):
    """Along a linear reward whose sign turns at the second look: without its past, the step is the
    first one again.
    """
    turns = []

    def reward(x):
        turns.append(1)
        return (x @ A) * (1 if len(turns) == 1 else -1)

    x0 = noise(1, 4, 2)
    found = FlowMapRewardGuidance(2, form, 0.6)(Still(), x0, Tilt(reward)).x
    s, c = math.sin(math.pi / 4), math.cos(math.pi / 4)
    weights = (0.5, 0.5 * 0.5) if form == "jacobian" else (s, 0.5 * c)
    torch.testing.assert_close(found, x0 + 0.6 * (weights[0] - weights[1]) * first_step(A))


def test_the_ring_in_eight_steps():
    """Of unguided samples the mean reward is -9; the endpoint's displacement times t - s once more
    gave -6.5.
    """
    world = ring_of_eight()
    x0, tilt = noise(1, 400, 2), Tilt(world.reward)

    def reward(sampler):
        return float(world.reward(sampler(world.flow_map, x0, tilt).x[0]).mean())

    assert reward(Jump(8)) < -8.5
    assert -0.05 < reward(FlowMapRewardGuidance(8, "endpoint", 1.0, rescale=True)) < 0
    for form in ("jacobian", "endpoint"):
        rewards = [reward(FlowMapRewardGuidance(8, form, lam)) for lam in (0.0, 1.0, 2.0, 4.0)]
        assert rewards == sorted(rewards)
        assert rewards[-1] > -1.5


@forms
def test_every_gradient_is_taken_where_the_last_one_led(form):
    """A quadratic reward, two plain steps of ascent, one jump."""
    y0, precision, lam = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7, 0.3
    sampler = FlowMapRewardGuidance(1, form, lam, 2, adam=False)
    x0 = noise(1, 4, 2)
    found = sampler(Still(), x0, Tilt(Quadratic(y0, precision))).x
    torch.testing.assert_close(found, y0 + (1 - lam * precision) ** 2 * (x0 - y0))


@forms
def test_the_strength_may_depend_on_time(form):
    """Guided in the second of two steps only."""
    x0, tilt, world = noise(1, 4, 2), Tilt(LinearReward(A)), OneGaussian(Linear())
    half = flow(Linear(), x0[0], 0.0, 0.5)
    u = (flow(Linear(), half, 0.5, 1.0) - half) / 0.5
    for rescale, step in ((True, length(u) * A / A.norm()), (False, 0.5 * first_step(A))):
        late = FlowMapRewardGuidance(2, form, lambda t: float(t > 0.4), rescale=rescale)(
            world, x0, tilt
        ).x
        torch.testing.assert_close(late[0], half + 0.5 * u + 0.5 * step)  # t - s, and (1 - s) t


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
    result = FlowMapRewardGuidance(2)(
        OneGaussian(Linear()), noise(2, 3, 2), Tilt(LinearReward(A), SCALES)
    )
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
        e = sampler(
            Ball(), noise(2, 4, 2), Tilt(Quadratic([1.0, 0.0], 3.0)), None, seeded()
        ).evaluations
        assert (
            e.network_forward,
            e.network_backward,
            e.reward_forward,
            e.reward_backward,
        ) == pytest.approx(expected)


def test_refusals():
    x0 = noise(1, 2, 2)
    with pytest.raises(ValueError, match=r"form is one of .*jacobian.*got 'j'"):
        FlowMapRewardGuidance(form="j")
    with pytest.raises(ValueError, match=r"guided in 0 \.\.\. steps; got n_opt=1, guided=9"):
        FlowMapRewardGuidance(8, guided=9)
    with pytest.raises(ValueError, match=r"Adam is invariant.*give adam=False"):
        FlowMapRewardGuidance(adam=True, rescale=True)
    with pytest.raises(ValueError, match=r"follows a reward; pass tilt="):
        FlowMapRewardGuidance()(Ball(), x0)
    with pytest.raises(ValueError, match=r"JpegSize has no gradient .* use FkSteering or BestOfN"):
        FlowMapRewardGuidance()(Ball(), torch.rand(1, 2, 1, 8, 8), Tilt(JpegSize()))
    for form in ("jacobian", "endpoint"):
        with pytest.raises(ValueError, match=r"has no gradient \(torch cannot follow"):
            FlowMapRewardGuidance(form=form)(Ball(), x0, Tilt(lambda x: x.detach().sum(1)))
        with pytest.raises(
            ValueError, match="the gradient of <lambda> is not finite for sample 0 at t = 0;"
        ):
            FlowMapRewardGuidance(form=form)(Ball(), x0, Tilt(lambda x: (x[:, 0] - x[:, 0]).sqrt()))
