"""Tilt: scale times reward, checked. Value: log E[exp(tilt)] over guesses."""

import functools

import pytest
import torch
from ball import Ball

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer import analytic, counting, samplers
from steer.guidance import Unconditional
from steer.lookahead import Guesses, Identity, Lookahead, Posterior
from steer.tilt import NonFiniteReward, Tilt, check_finite, no_gradient
from steer.value import Value


def points(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(x):
    return x.sum(1)


class Labelled(torch.nn.Module):
    def forward(self, x, cond):
        return x.sum(1) * cond


def test_a_tilt_is_scale_times_reward():
    x = points(5)
    assert torch.equal(Tilt(total, -2.5)(x), -2.5 * x.sum(1))
    assert torch.equal(Tilt(total)(x), x.sum(1))
    assert torch.equal(Tilt(total, 3.0).rewards(x), x.sum(1))
    assert torch.equal(Tilt(total, 3.0).with_scale(0.5)(x), 0.5 * x.sum(1))
    assert (
        Tilt(total, 2.0)(x.float()).dtype == torch.float64
    )  # whatever the samples: weights are sums of it


def test_scales_go_to_prompts_in_order():
    x = points(6)
    scales = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(Tilt(total, scales)(x), scales.repeat_interleave(2) * x.sum(1))
    with pytest.raises(ValueError, match="3 scales, one per prompt, does not divide 5"):
        Tilt(total, scales)(points(5))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), torch.ones(2, 2)])
def test_a_scale_is_finite_and_flat(scale):
    with pytest.raises(ValueError, match="scale is a finite number"):
        Tilt(total, scale)


@pytest.mark.parametrize(
    "reward",
    [
        Labelled(),
        lambda x, cond: x.sum(1) * cond,
        lambda x, labels: x.sum(1) * labels,
        lambda x, power=1, cond=None: x.sum(1) ** power * cond,
        lambda x, *, cond=None: x.sum(1) * cond,
        functools.partial(lambda power, x, cond: x.sum(1) ** power * cond, 1),
    ],
)
def test_rewards_of_two_arguments_are_told_the_condition(reward):
    x, cond = points(3), torch.tensor([1.0, 0.0, 2.0])
    assert torch.equal(Tilt(reward)(x, cond), x.sum(1) * cond)


@pytest.mark.parametrize(
    "reward", [total, lambda x, power=1: x.sum(1) ** power, lambda x, **more: x.sum(1)]
)
def test_rewards_of_one_argument_are_not(reward):
    x = points(3)
    assert torch.equal(Tilt(reward)(x, torch.zeros(3)), x.sum(1))


def test_a_second_argument_that_is_no_condition_is_refused():
    with pytest.raises(ValueError, match=r"<lambda>.*'strength'"):
        Tilt(lambda x, strength: strength * x.sum(1))


def test_a_reward_that_is_not_finite_is_named_with_sample_and_time():
    x = points(4)
    x[2] = 1e308
    with pytest.raises(NonFiniteReward, match=r"total is inf for sample 2; fix"):
        Tilt(total)(x)
    with pytest.raises(NonFiniteReward, match=r"sample 2 at t = 0.25; fix"):
        Tilt(total)(x, t=torch.tensor([0.0, 0.1, 0.25, 1.0]))
    x[2] = torch.inf
    with pytest.raises(
        NonFiniteReward,
        match=r"what total is asked about is not finite for sample 2; the samples diverge",
    ):
        Tilt(total)(x)
    with pytest.raises(NonFiniteReward, match=r"slope is not finite for sample 2 at t = 0.5"):
        check_finite(x, "slope", 0.5)
    error = NonFiniteReward("r is nan", 2, 0.5).further(10)
    assert (error.sample, error.t) == (12, 0.5)
    assert "sample 12 at t = 0.5" in str(error)


def test_who_has_no_gradient_and_why():
    declared = Quadratic([0.0], 1.0)
    declared.differentiable, declared.why_not_differentiable = False, "It rounds."
    assert not Tilt(declared).differentiable
    assert (
        no_gradient(declared, "BestOfN")
        == "Quadratic has no gradient (It rounds); use BestOfN, which needs none"
    )
    assert Tilt(total).differentiable
    assert "total has no gradient (torch cannot follow" in no_gradient(total, "BestOfN")


# --- Value --------------------------------------------------------------------------------------
class Given(Lookahead):
    """A look-ahead that guesses what it was told."""

    def __init__(self, x1, log_w):
        self.guesses = Guesses(x1, log_w)

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        return self.guesses


def test_the_value_is_the_log_mean_of_the_tilt_over_the_guesses():
    x1, log_w, scale = points(12).view(3, 4, 2), points(3, 4).log_softmax(0), 0.7
    value = Value(Tilt(total, scale), Given(x1, log_w))(Ball(), points(4), 0.5)
    assert torch.allclose(value, (log_w.exp() * (scale * x1.sum(2)).exp()).sum(0).log(), rtol=1e-12)


def test_the_value_of_a_single_guess_is_its_tilt():
    x = points(4)
    assert torch.equal(Value(Tilt(total, 2.0), Identity())(Ball(), x, 0.5), 2 * x.sum(1))


def test_the_value_shifts_with_the_reward_and_does_not_overflow():
    x1, log_w = points(12).view(3, 4, 2), points(3, 4).log_softmax(0)
    values = [
        Value(Tilt(LinearReward([1.0, 1.0], c)), Given(x1, log_w))(Ball(), points(4), 0.5)
        for c in (0.0, 1e6)
    ]
    assert torch.allclose(values[1] - 1e6, values[0], atol=1e-8)


def test_each_guess_is_a_reward_evaluation():
    with counting.count() as tally:
        Value(Tilt(total), Posterior(5))(
            Ball(), points(4), 0.5, None, torch.Generator().manual_seed(0)
        )
    assert tally.reward_forward == 20


def test_the_posterior_value_of_the_ball():
    """x1 | x_t ~ N(t x / rho^2, (1-t)^2 / rho^2), so that V = a . mean + |a|^2 var / 2 for the
    reward a . x.
    """
    x, t, a = points(3), 0.6, torch.tensor([0.5, -0.3], dtype=torch.float64)
    value = Value(Tilt(LinearReward(a)), Posterior(4_000))
    estimate = value(Ball(), x, t, None, torch.Generator().manual_seed(0))
    rho2 = t**2 + (1 - t) ** 2
    exact = x @ a * t / rho2 + (a @ a) * (1 - t) ** 2 / rho2 / 2
    assert torch.allclose(estimate, exact, atol=4 * 0.35 / 4_000**0.5)


# A scale for each prompt, found by the prompt


def sums(x, cond=None):
    return x.sum(1)


PROMPTS = {
    "labels": (torch.tensor([7, 2, -1]), torch.tensor([2, 2, 7, -1, 2])),
    "embeddings": (torch.eye(3), torch.eye(3)[[1, 1, 0, 2, 1]]),
    "texts": (["a hat", "a bag", ""], ["a bag", "a bag", "a hat", "", "a bag"]),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_scale_is_found_by_the_prompt_wherever_the_sample_is(kind):
    prompts, cond = PROMPTS[kind]
    tilt = Tilt(sums, torch.tensor([1.0, 10.0, 100.0]), prompts)
    x = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    assert tilt(x, cond).tolist() == [10, 20, 3, 400, 50]
    rewards = torch.ones(2, 5, dtype=torch.float64)
    assert tilt.scaled(rewards, cond)[1].tolist() == [10, 10, 1, 100, 10]
    assert tilt.in_order(cond).scale.tolist() == [10, 10, 1, 100, 10]


def test_a_scale_whose_prompt_is_unknown_or_in_doubt_is_refused():
    tilt = Tilt(sums, torch.tensor([1.0, 10.0]), torch.tensor([7, 2]))
    with pytest.raises(ValueError, match=r"no scale for the prompt 3"):
        tilt(torch.ones(2, 1), torch.tensor([7, 3]))
    with pytest.raises(ValueError, match="needs the conditions of the samples; pass cond"):
        tilt(torch.ones(2, 1))
    with pytest.raises(ValueError, match="prompt 7 has two scales, 1 and 2; give it one"):
        Tilt(sums, torch.tensor([1.0, 2.0]), torch.tensor([7, 7]))
    with pytest.raises(ValueError, match="2 prompts and a scale of shape"):
        Tilt(sums, torch.tensor([1.0]), torch.tensor([7, 2]))


def test_samplers_find_scales_by_prompt_too():
    """Ode with a tilt weighs by scale r: the log weights show the scale that each prompt got."""
    tilt = Tilt(sums, torch.tensor([1.0, 10.0, 100.0]), torch.tensor([7, 2, 3]))
    x0 = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ring = analytic.ring()
    result = samplers.Ode(2)(Unconditional(ring), x0, tilt, torch.tensor([3, 7]))
    for p, scale in enumerate((100.0, 1.0)):
        expected = (scale * result.x[p].sum(1)).log_softmax(0)
        torch.testing.assert_close(result.log_w[p].log_softmax(0), expected)


def test_a_class_in_place_of_a_reward_is_refused_at_once():
    with pytest.raises(ValueError, match="got the class Linear: build one"):
        Tilt(LinearReward)
