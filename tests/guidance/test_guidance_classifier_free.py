"""Classifier-free guidance against Bayes' rule on a mixture, and the map that is not told."""

import math

import pytest
import torch

from steer import counting
from steer.analytic import ring
from steer.flow_map import OdeMap
from steer.guidance import ClassifierFree, Unconditional
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import Posterior

LABELS = torch.tensor([0, 3, 1, 2, 3, 0])


def points(n=6):
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, 0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5, -0.5])
@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
def test_it_adds_the_score_of_an_exact_classifier(schedule, weight):
    """b + w c_t grad log p_t(k | x), since b_k - b = c_t grad log p_t(k | x)."""
    law = ring(4, 2.0, schedule=schedule)
    x, t = points()
    score = torch.func.grad(lambda x: (law.log_prob(x, t, LABELS) - law.log_prob(x, t)).sum())(x)
    expected = law.velocity(x, t) + weight * schedule.c_t(t)[:, None] * score
    found = ClassifierFree(law, weight).velocity(x, t, LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_one_is_the_conditional_map_and_zero_the_other():
    law = ring(4, 2.0)
    x, t = points()
    for weight, cond in ((1.0, LABELS), (0.0, None)):
        guided = ClassifierFree(law, weight)
        torch.testing.assert_close(
            guided.velocity(x, t, LABELS), law.velocity(x, t, cond), rtol=1e-14, atol=1e-14
        )
        torch.testing.assert_close(
            guided(x, t, 1.0, LABELS), law(x, t, 1.0, cond), rtol=1e-14, atol=1e-14
        )
        torch.testing.assert_close(
            guided.denoise(x, t, LABELS), law.denoise(x, t, cond), rtol=1e-9, atol=1e-9
        )


def test_the_absent_class_is_left_unguided():
    law = ring(4, 2.0)
    x, t = points()
    absent = torch.full_like(LABELS, -1)
    torch.testing.assert_close(ClassifierFree(law, 7.0).velocity(x, t, absent), law.velocity(x, t))


def test_jumps_follow_the_guided_flow_to_first_order():
    """The error of a jump falls with the square of its length, unless the weight is one."""
    law = ring(4, 2.0, steps=64)
    x, _ = points()
    guided = ClassifierFree(law, 3.0)
    exact = OdeMap(guided, law.schedule, steps=64)
    errors = [
        (guided(x, 0.5, 0.5 + h, LABELS) - exact(x, 0.5, 0.5 + h, LABELS)).norm().item()
        for h in (0.02, 0.01)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    torch.testing.assert_close(guided(x, 0.5, 0.5, LABELS), x, rtol=1e-14, atol=1e-14)


def test_it_costs_twice():
    law = ring(4, 2.0)
    x, t = points()
    with counting.count() as tally:
        ClassifierFree(law).velocity(x, t, LABELS)
    assert tally.network_forward == 2 * 6


def test_it_needs_a_condition():
    law = ring(4, 2.0)
    x, t = points()
    for ask in (lambda m: m.velocity(x, t), lambda m: m(x, t, 1.0), lambda m: m.denoise(x, t)):
        with pytest.raises(
            ValueError, match="classifier-free guidance needs a condition to lean to; pass cond"
        ):
            ask(ClassifierFree(law))


def test_unconditional_forgets_what_it_is_told():
    law = ring(4, 2.0)
    x, t = points()
    deaf = Unconditional(law)
    for cond in (LABELS, None):
        torch.testing.assert_close(deaf.velocity(x, t, cond), law.velocity(x, t), rtol=0, atol=0)
        torch.testing.assert_close(deaf(x, t, 1.0, cond), law(x, t, 1.0), rtol=0, atol=0)
        torch.testing.assert_close(deaf.lookahead(x, t, cond), law.lookahead(x, t), rtol=0, atol=0)
        torch.testing.assert_close(deaf.score(x, t, cond), law.score(x, t), rtol=1e-9, atol=1e-9)
    drawn, unconditional = (
        Posterior(8)(m, x, t, c, torch.Generator().manual_seed(1))
        for m, c in ((deaf, LABELS), (law, None))
    )
    torch.testing.assert_close(drawn, unconditional, rtol=0, atol=0)
    assert deaf.schedule is law.schedule


def test_unconditional_draws_only_if_its_model_can():
    law = ring(4, 2.0)
    x, t = points()
    with pytest.raises(ValueError, match=r"OdeMap cannot draw from p\(x1 \| x_t\) by itself"):
        Posterior(8)(Unconditional(OdeMap(law, law.schedule, steps=4)), x, t, LABELS)
