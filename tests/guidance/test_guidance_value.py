"""Value guidance: with the exact value it is the tilted law's own velocity, and its ODE carries
noise to that law.
"""

import math

import pytest
import torch

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer import counting
from steer.analytic import GaussianMixture
from steer.flow_map import OdeMap
from steer.guidance import Guidance, Guided, ValueGuidance
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Denoiser, Identity, MapJump, Posterior, ShortOde
from steer.solvers import Heun, Rk4
from steer.tilt import NonFiniteReward, Tilt
from steer.value import Value

REWARDS = {"quadratic": Quadratic([0.5, -1.0], precision=2.0), "linear": LinearReward([0.7, -0.4])}
SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_reward = pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS.keys())


class ExactValue(Value):
    """V_t in closed form, for a tilt of scale one."""

    def __init__(self, reward):
        super().__init__(Tilt(reward), Identity())

    def forward(self, flow_map, x, t, cond=None, generator=None):
        return flow_map.value(self.tilt.reward, x, t)


def mixture(schedule=None):
    axes = torch.linalg.qr(torch.randn(3, 2, 2, generator=generator(), dtype=torch.float64)).Q
    std = torch.tensor([[0.3, 0.9], [0.7, 0.5], [1.1, 0.4]], dtype=torch.float64)
    means = torch.tensor([[2.0, -1.0], [0.5, 1.5], [-2.0, 0.0]], dtype=torch.float64)
    return GaussianMixture(means, std, [1.0, 2.0, 3.0], schedule, axes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=16):
    x = 2 * torch.randn(n, 2, generator=generator(1), dtype=torch.float64)
    return x, torch.linspace(0.02, 0.98, n, dtype=torch.float64)


# Exactness


@every_reward
@every_schedule
def test_the_exact_value_gives_the_velocity_of_the_tilted_law(reward, schedule):
    law = mixture(schedule)
    x, t = points()
    guided = Guided(law, ValueGuidance(ExactValue(reward)))
    tilted, _ = law.tilted(reward)
    torch.testing.assert_close(guided.velocity(x, t), tilted.velocity(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guided.score(x, t), tilted.score(x, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided.denoise(x, t), tilted.denoise(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=repr)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_at_the_ends_it_misses_by_the_margin_times_the_slope(schedule, end):
    """c_t grad V is asked a thousandth inside, so the error is a thousandth of its time derivative
    (mean value theorem).
    """
    law = mixture(schedule)
    x, _ = points()
    reward = REWARDS["quadratic"]
    tilted, _ = law.tilted(reward)
    exact, _ = torch.func.jvp(lambda t: tilted.velocity(x, t) - law.velocity(x, t), *one_time(end))
    step = 1e-3 if end == 0 else -1e-3
    _, slope = torch.func.jvp(
        lambda t: tilted.velocity(x, t) - law.velocity(x, t), *one_time(end + step / 2)
    )
    found = ValueGuidance(ExactValue(reward))(law, x, one_time(end)[0][0])
    assert (found - exact - step * slope).norm() < 1e-3 * (found - exact).norm()


def one_time(t):
    """The same time for all points, and its tangent."""
    t = torch.full((16,), t, dtype=torch.float64)
    return (t,), (torch.ones_like(t),)


def test_jumps_carry_noise_to_the_tilted_law():
    law = mixture()
    x, _ = points()
    reward = REWARDS["linear"]
    tilted, _ = law.tilted(reward)
    exact = OdeMap(tilted, law.schedule, steps=150)(x, 0.01, 0.99)
    guidance = ValueGuidance(ExactValue(reward))
    errors = [
        (Guided(law, guidance, steps=steps, solver=Heun())(x, 0.01, 0.99) - exact)
        .norm(dim=1)
        .median()
        for steps in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.4)


@every_reward
@every_schedule
def test_posterior_draws_estimate_the_tilted_velocity(reward, schedule):
    """2000 estimates at each of two points. Twice those of 2K draws less those of K has no bias
    left of order 1/K.
    """
    law = mixture(schedule)
    x, t = points()
    few, many = (
        ValueGuidance(Value(Tilt(reward), Posterior(draws)))(
            law, x[5:7].repeat(2000, 1), t[5:7].repeat(2000), generator=generator(draws)
        ).unflatten(0, (2000, 2))
        for draws in (60, 120)
    )
    exact = (law.tilted(reward)[0].velocity(x, t) - law.velocity(x, t))[5:7]
    error = torch.sqrt((4 * many.var(0) + few.var(0)) / 2000)
    assert ((2 * many.mean(0) - few.mean(0) - exact).abs() <= 4.5 * error).all()


@every_reward
def test_a_single_guess_is_biased(reward):
    """What the docstring warns of: the denoiser and the map look ahead to one place, and the
    velocity is not the law's.
    """
    law = mixture()
    x, t = points()
    exact = law.tilted(reward)[0].velocity(x, t) - law.velocity(x, t)
    for lookahead in (Denoiser(), MapJump()):
        found = ValueGuidance(Value(Tilt(reward), lookahead))(law, x, t)
        assert (found - exact).norm() > 0.02 * exact.norm()


def test_for_one_gaussian_and_a_linear_reward_the_denoiser_is_exact():
    """Its posterior has the same covariance everywhere, so the value is the reward of the mean and
    a constant.
    """
    law = GaussianMixture([[1.0, -1.0]], 0.5)
    x, t = points()
    reward = REWARDS["linear"]
    guided = Guided(law, ValueGuidance(Value(Tilt(reward), Denoiser())))
    torch.testing.assert_close(
        guided.velocity(x, t), law.tilted(reward)[0].velocity(x, t), rtol=1e-9, atol=1e-9
    )


@every_schedule
def test_the_scale_is_the_tilts(schedule):
    law = mixture(schedule)
    x, t = points()
    once, thrice, none = (
        ValueGuidance(Value(Tilt(REWARDS["quadratic"], scale), Denoiser()))(law, x, t)
        for scale in (1.0, 3.0, 0.0)
    )
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-9, atol=1e-9)
    assert (none == 0).all()


def test_scales_of_single_prompts_are_refused():
    with pytest.raises(ValueError, match="sees samples, not prompts"):
        ValueGuidance(Value(Tilt(REWARDS["quadratic"], torch.tensor([1.0, 2.0])), Denoiser()))


def test_a_guided_map_holds_the_modules_of_its_guidances():
    """So that they move with it to another device."""
    judge = torch.nn.Linear(2, 1)
    guided = Guided(mixture(), ValueGuidance(Value(Tilt(judge), Denoiser())))
    assert any(p is judge.weight for p in guided.parameters())


# Guided is a flow map


class Push(Guidance):
    """A constant correction, or a random one."""

    def __init__(self, by, random=False):
        self.by = by
        self.random = random

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        return (
            torch.randn(x.shape, generator=generator, dtype=x.dtype)
            if self.random
            else self.by * torch.ones_like(x)
        )


def test_corrections_add_up_in_any_number():
    law = mixture()
    x, t = points()
    for pushes in ([], [1.0], [1.0, -0.25, 3.0]):
        guided = Guided(law, *(Push(by) for by in pushes))
        torch.testing.assert_close(
            guided.velocity(x, t), law.velocity(x, t) + sum(pushes), rtol=1e-12, atol=1e-12
        )
        assert guided.schedule is law.schedule


def test_unguided_jumps_are_the_maps_own():
    law = mixture()
    x, t = points()
    torch.testing.assert_close(
        Guided(law, steps=64, solver=Rk4())(x, t, 1.0), law(x, t, 1.0), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(Guided(law, Push(5.0))(x, t, t), x, rtol=0, atol=0)


def test_chance_comes_from_the_generator():
    law = mixture()
    x, t = points()
    first, again, other = (
        Guided(law, Push(0, random=True), generator=generator(k))(x, t, 1.0) for k in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "lookahead", [Denoiser(), ShortOde(2), Identity()], ids=lambda k: type(k).__name__
)
def test_samples_do_not_see_each_other(lookahead):
    law = mixture()
    x, t = points(5)
    guided = Guided(law, ValueGuidance(Value(Tilt(REWARDS["quadratic"]), lookahead)))
    alone = torch.cat([guided.velocity(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(guided.velocity(x, t), alone, rtol=1e-10, atol=1e-10)


def test_steps_are_at_least_one():
    with pytest.raises(
        ValueError, match="Guided needs at least one step for its jumps; got steps=0"
    ):
        Guided(mixture(), steps=0)


def test_the_cost_is_one_velocity_and_the_look_ahead_with_its_backward():
    law = mixture()
    x, t = points(5)
    with counting.count() as tally:
        Guided(law, ValueGuidance(Value(Tilt(REWARDS["quadratic"]), Denoiser())), steps=3)(
            x, t, 1.0
        )
    assert (tally.network_forward, tally.network_backward) == (5 * 3 * 2, 5 * 3)
    assert (tally.reward_forward, tally.reward_backward) == (5 * 3, 5 * 3)


# Gradients


def test_it_works_under_no_grad_and_leaves_nothing_behind():
    law = mixture()
    x, t = points()
    guided = Guided(law, ValueGuidance(ExactValue(REWARDS["quadratic"])))
    with torch.no_grad():
        v = guided.velocity(x, t)
    assert not v.requires_grad
    assert not x.requires_grad
    torch.testing.assert_close(v, guided.velocity(x, t).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("what", ["x", "t"])
def test_the_guided_velocity_is_differentiable_in_x_and_t(what):
    """Whoever differentiates a guided map (a reward at its look-ahead, say) gets the whole
    gradient, not the base's part.
    """
    law = mixture()
    x, t = points()
    reward = REWARDS["quadratic"]
    guided = Guided(law, ValueGuidance(ExactValue(reward)))
    tilted, _ = law.tilted(reward)
    inputs = {"x": x.clone(), "t": t.clone()}
    inputs[what].requires_grad_()
    found, exact = (
        torch.autograd.grad(m.velocity(inputs["x"], inputs["t"]).sin().sum(), inputs[what])[0]
        for m in (guided, tilted)
    )
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


def test_forward_mode_through_guidance_is_refused_not_wrong():
    law = mixture()
    x, t = points()
    guided = Guided(law, ValueGuidance(ExactValue(REWARDS["quadratic"])))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jvp(lambda x: guided.velocity(x, t), (x,), (torch.ones_like(x),))


# Rewards that cannot guide


def test_a_reward_that_says_it_has_no_gradient_is_refused_at_once():
    class Black(torch.nn.Module):
        differentiable = False

        def forward(self, x):
            return x.sum(1)

    with pytest.raises(ValueError, match=r"Black has no gradient .* use BestOfN"):
        ValueGuidance(Value(Tilt(Black()), Denoiser()))


def test_a_function_without_gradient_is_refused_when_found_out():
    law = mixture()
    x, t = points()
    with pytest.raises(ValueError, match=r"has no gradient .* use BestOfN, which needs none"):
        ValueGuidance(Value(Tilt(lambda x: x.detach().sum(1)), Denoiser()))(law, x, t)


def test_a_gradient_that_is_not_finite_names_sample_and_time():
    """sqrt at zero: the reward is fine and its slope is not."""
    law = mixture()
    x, t = points(4)
    x[2] = 0.0
    with pytest.raises(
        NonFiniteReward, match=r"the gradient of .* is not finite for sample 2 at t = "
    ):
        ValueGuidance(Value(Tilt(lambda x: x[:, 0].abs().sqrt()), Identity()))(law, x, t)
