import math

import pytest
import torch
from torch import nn

from rewards import (
    Clipped,
    Decoded,
    Ensemble,
    JpegSize,
    Linear,
    Quadratic,
    Smoothed,
    Sum,
    Switch,
    from_signed,
)

X = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
UP = Linear([0.0, 1.0])  # 2, -1
NEAR = Quadratic([0.0, 0.0], precision=2.0)  # -5, -1


def test_sum_by_hand():
    reward = Sum(
        {"up": UP, "near": NEAR, "plain": lambda x: x[:, 0]}, weights={"up": 3.0, "near": 0.5}
    )
    terms = reward.terms(X)
    assert {name: value.tolist() for name, value in terms.items()} == {
        "up": [2, -1],
        "near": [-5, -1],
        "plain": [1, 0],
    }
    assert reward(X).tolist() == [3 * 2 - 0.5 * 5 + 1, -3 - 0.5 + 0]


def test_sum_terms_may_have_any_name():
    assert Sum({"keys": UP, "a.b": UP})(X).tolist() == [4, -2]


def test_sum_refuses_what_it_cannot_weigh():
    with pytest.raises(
        ValueError,
        match=r"expected weights for brightness, size, got 'brihgtness': did you mean 'brightness'",
    ):
        Sum({"brightness": UP, "size": UP}, weights={"brihgtness": 1.0})
    with pytest.raises(ValueError, match="finite weight for 'up', got nan"):
        Sum({"up": UP}, weights={"up": math.nan})
    with pytest.raises(ValueError, match="at least one"):
        Sum({})


@pytest.mark.parametrize(
    "cond", [torch.tensor([7, 2, 7, 2]), ["7", "2", "7", "2"]], ids=["labels", "words"]
)
def test_a_switch_gives_every_prompt_its_own_reward(cond):
    x = torch.cat((X, X + 1))
    reward = Switch({2: UP, "7": NEAR})
    assert reward(x, cond).tolist() == [
        float(NEAR(x[:1])),
        float(UP(x[1:2])),
        float(NEAR(x[2:3])),
        float(UP(x[3:])),
    ]
    assert not Switch({2: JpegSize(), 7: UP}).differentiable


def test_a_switch_refuses_conditions_without_a_reward():
    reward = Switch({2: UP, 7: NEAR})
    with pytest.raises(ValueError, match="among 2, 7, got '3'"):
        reward(X, torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="a class label or a text per sample"):
        reward(X)
    with pytest.raises(ValueError, match="at least one reward"):
        Switch({})
    with pytest.raises(ValueError, match="once, got '2'"):
        Switch({2: UP, "2": NEAR})
    assert Switch({2: UP}, otherwise=NEAR)(X, ["a", "2"]).tolist() == [
        float(NEAR(X[:1])),
        float(UP(X[1:])),
    ]


def test_decoded_and_its_terms():
    reward = Decoded(Sum({"up": UP, "near": NEAR}), from_signed)
    assert reward(X).tolist() == [1.5 - (1 + 1.5**2), 0 - 0.25]
    assert reward.terms(X)["up"].tolist() == [1.5, 0]


def test_from_signed_keeps_the_gradient_beyond_the_range():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], requires_grad=True)
    image = from_signed(x)
    assert image.tolist() == [-1, 0, 0.5, 1, 2]
    assert torch.autograd.grad(image.sum(), x)[0].tolist() == [0.5] * 5


def test_a_decoder_may_be_run_again_instead_of_kept():
    ran = []

    def decode(x):
        ran.append(len(x))
        return (3 * x).sin()

    x = X.clone().requires_grad_()
    (kept,) = torch.autograd.grad(Decoded(NEAR, decode)(x).sum(), x)
    assert ran == [2]
    (again,) = torch.autograd.grad(Decoded(NEAR, decode, recompute=True)(x).sum(), x)
    assert ran == [2, 2, 2]
    assert torch.equal(kept, again)
    Decoded(NEAR, decode, recompute=True)(X)
    assert ran == [2, 2, 2, 2]


def test_a_decoder_is_frozen():
    decoder = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    Decoded(UP, decoder)
    assert not decoder.training
    assert not any(p.requires_grad for p in decoder.parameters())


def test_clipped_has_no_gradient_outside():
    reward = Clipped(UP, low=-0.5, high=1.0)
    x = torch.tensor([[0.0, 2.0], [0.0, 0.5], [0.0, -1.0]], requires_grad=True)
    assert reward(x).tolist() == [1.0, 0.5, -0.5]
    assert torch.autograd.grad(reward(x).sum(), x)[0].tolist() == [[0, 0], [0, 1], [0, 0]]
    assert Clipped(Sum({"up": UP})).terms(x)["up"].tolist() == [2.0, 0.5, -1.0]
    with pytest.raises(ValueError, match=r"low=1\.0, high=0\.0"):
        Clipped(UP, low=1.0, high=0.0)


def test_ensemble_by_hand():
    assert Ensemble([UP, NEAR])(X).tolist() == [-1.5, -1.0]
    assert Ensemble([UP, NEAR], pessimism=2.0)(X).tolist() == [-1.5 - 2 * 3.5, -1.0]


def test_ensemble_of_judges_who_agree_has_a_finite_gradient():
    x = X.clone().requires_grad_()
    reward = Ensemble([UP, UP], pessimism=1.0)
    assert torch.autograd.grad(reward(x).sum(), x)[0].tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match="pessimism >= 0"):
        Ensemble([UP], pessimism=-1.0)
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


def test_smoothing_by_noise_is_a_gaussian_average():
    """E -|x + s e|^2 = -|x|^2 - 2 s^2 in the plane, with variance 4 s^2 (|x|^2 + s^2)."""
    views = 4000
    noise = 0.7
    smooth = Smoothed(NEAR, noise, views=views)
    x = X.double()
    error = 2 * noise * torch.sqrt(x.square().sum(1) + noise**2) / views**0.5
    assert ((smooth(x) - (NEAR(x) - 2 * noise**2)).abs() < 4.5 * error).all()
    assert torch.equal(smooth(x), smooth(x))
    assert not torch.equal(smooth(x), Smoothed(NEAR, noise, views=views, seed=1)(x))


def test_smoothing_by_shifts_is_a_box_filter():
    """The gradient of one pixel's brightness is spread over the (2 shift + 1)^2 around it, evenly
    up to chance.
    """
    views = 5000
    x = torch.rand(2, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    reward = Smoothed(lambda x: x[:, 0, 4, 4], noise=0.0, shift=1, views=views)
    (gradient,) = torch.autograd.grad(reward(x).sum(), x)
    box = gradient[:, 0, 3:6, 3:6]
    assert ((box - 1 / 9).abs() < 4.5 * (1 / 9 * 8 / 9 / views) ** 0.5).all()
    assert gradient.sum() == pytest.approx(2)
    assert box.sum() == pytest.approx(2)


def test_smoothing_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"views=0, noise=0\.3, shift=0"):
        Smoothed(NEAR, views=0)
    with pytest.raises(
        ValueError, match=r"only images .* can be shifted, got \(2, 2\): give shift=0"
    ):
        Smoothed(NEAR, shift=1)(X)


def test_reasons_are_passed_on():
    reward = Clipped(Decoded(Sum({"size": JpegSize(), "up": UP, "again": JpegSize()}), from_signed))
    assert not reward.differentiable
    assert reward.why_not_differentiable == JpegSize.why_not_differentiable
    assert reward.instead == JpegSize.instead
    assert Ensemble([UP, NEAR]).differentiable
