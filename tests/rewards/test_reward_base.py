import functools

import pytest
import torch
from torch import nn

from rewards import Brightness, FunctionReward, as_reward


def plain(x):
    return x.sum(1)


def conditioned(x, cond):
    return x.sum(1) + cond


def optional(x, strength=10.0, cond=None):
    return strength * x.sum(1) + cond


def renamed(x, label):
    return x.sum(1) + label


class Method:
    def __call__(self, x, cond=None):
        return x.sum(1) + cond


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, [3, 3]),
        (conditioned, [3, 4]),
        (optional, [30, 31]),
        (renamed, [3, 4]),
        (Method(), [3, 4]),
        (functools.partial(optional, strength=2.0), [6, 7]),
        (lambda x, *rest, **more: x.sum(1) + len(rest) + len(more), [3, 3]),
        (lambda x, *, cond: x.sum(1) + cond, [3, 4]),
        (nn.Flatten(0), [1, 1]),
    ],
)
def test_cond_goes_where_it_is_asked_for(function, expected):
    x = torch.ones(2) if isinstance(function, nn.Module) else torch.ones(2, 3)
    assert FunctionReward(function)(x, torch.arange(2)).tolist() == expected


@pytest.mark.parametrize("function", [lambda: 0, lambda x, y, z: x, lambda *, x: x])
def test_functions_of_other_arguments_are_refused(function):
    with pytest.raises(
        ValueError, match=r"<lambda>.*expected arguments \(x\) or \(x, cond\), got \("
    ):
        FunctionReward(function)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x, r"one number per sample, got shape \(2, 3\)"),
        (
            lambda x: x.sum(),
            r"expected a tensor of shape \(2,\), one number per sample, got shape \(\)",
        ),
        (lambda x: 1.0, "got float"),
        (lambda x: torch.arange(2), "got torch.int64"),
    ],
)
def test_wrong_values_are_refused(function, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        FunctionReward(function)(torch.ones(2, 3))
    assert "\n" not in str(error.value)


def test_an_error_inside_the_function_is_told_on_one_line():
    def faulty(x):
        raise RuntimeError("two\nlines")

    with pytest.raises(
        ValueError, match=r"^reward 'faulty' raised RuntimeError: two lines \(.*test_reward_base.py"
    ) as error:
        FunctionReward(faulty)(torch.ones(2, 3))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert "\n" not in str(error.value)


def test_a_module_is_frozen_and_moves_along():
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(), nn.Flatten(0))
    reward = FunctionReward(network).double()
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(reward(x), reward(x))
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_as_reward():
    reward = Brightness()
    assert as_reward(reward) is reward
    assert isinstance(as_reward(plain), FunctionReward)
    assert as_reward(plain).differentiable
    with pytest.raises(ValueError, match=r"got the class Brightness: build one"):
        as_reward(Brightness)
    with pytest.raises(ValueError, match="got float"):
        as_reward(1.0)


def test_a_function_can_be_declared_without_gradient():
    reward = FunctionReward(plain, differentiable=False)
    assert not reward.differentiable
    assert "best-of-n" in reward.instead


def test_a_second_argument_that_is_no_condition_is_refused():
    with pytest.raises(ValueError, match="'strength'"):
        as_reward(lambda x, strength: strength * x.sum(1))
