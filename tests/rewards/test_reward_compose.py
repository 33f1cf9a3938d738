import math

import pytest
import torch
from torch import nn

from rewards import Clipped, Decoded, Ensemble, JpegSize, Linear, Quadratic, Sum, from_signed

X = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
UP = Linear([0.0, 1.0])  # 2, -1
NEAR = Quadratic([0.0, 0.0], precision=2.0)  # -5, -1


def test_sum_by_hand():
    reward = Sum({"up": UP, "near": NEAR, "plain": lambda x: x[:, 0]}, weights={"up": 3.0, "near": 0.5})
    terms = reward.terms(X)
    assert {name: value.tolist() for name, value in terms.items()} == {"up": [2, -1], "near": [-5, -1], "plain": [1, 0]}
    assert reward(X).tolist() == [3 * 2 - 0.5 * 5 + 1, -3 - 0.5 + 0]


def test_sum_terms_may_have_any_name():
    assert Sum({"keys": UP, "a.b": UP})(X).tolist() == [4, -2]


def test_sum_refuses_what_it_cannot_weigh():
    with pytest.raises(
        ValueError, match=r"expected weights for brightness, size, got 'brihgtness': did you mean 'brightness'"
    ):
        Sum({"brightness": UP, "size": UP}, weights={"brihgtness": 1.0})
    with pytest.raises(ValueError, match="finite weight for 'up', got nan"):
        Sum({"up": UP}, weights={"up": math.nan})
    with pytest.raises(ValueError, match="at least one"):
        Sum({})


def test_decoded_and_its_terms():
    reward = Decoded(Sum({"up": UP, "near": NEAR}), from_signed)
    assert reward(X).tolist() == [1.5 - (1 + 1.5**2), 0 - 0.25]
    assert reward.terms(X)["up"].tolist() == [1.5, 0]


def test_from_signed_keeps_the_gradient_beyond_the_range():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], requires_grad=True)
    image = from_signed(x)
    assert image.tolist() == [-1, 0, 0.5, 1, 2]
    assert torch.autograd.grad(image.sum(), x)[0].tolist() == [0.5] * 5


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


def test_reasons_are_passed_on():
    reward = Clipped(Decoded(Sum({"size": JpegSize(), "up": UP, "again": JpegSize()}), from_signed))
    assert not reward.differentiable
    assert reward.why_not_differentiable == JpegSize.why_not_differentiable
    assert reward.instead == JpegSize.instead
    assert Ensemble([UP, NEAR]).differentiable
