"""Standardised, Cached, OnDevice and Groupwise rewards, and objects by a detector."""

import json

import pytest
import torch

import rewards
from steer import Condition

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Counted:
    """The sum of a sample, and how many samples it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, x, cond):
        self.asked += len(x)
        extra = 0.0 if cond is None else torch.tensor([len(c) for c in cond])
        return x.flatten(1).sum(1) + extra


# --- standard scale -----------------------------------------------------------------------------
def test_a_standardised_reward_has_mean_0_and_deviation_1_where_it_was_measured():
    reward = rewards.Standardised.measured(rewards.Linear([3.0, -1.0], offset=7.0), X)
    values = reward(X)
    torch.testing.assert_close(values.mean(), values.new_zeros(()), atol=1e-12, rtol=0)
    torch.testing.assert_close(values.std(), values.new_ones(()))
    torch.testing.assert_close(reward(X[:1]), values[:1])
    with pytest.raises(ValueError, match=r"expected std > 0, got 0.0: measure it over samples"):
        rewards.Standardised.measured(rewards.Linear([0.0, 0.0]), X)
    with pytest.raises(ValueError, match="expected at least 2 samples, got 1"):
        rewards.Standardised.measured(rewards.Linear([1.0, 0.0]), X[:1])


# --- kept values --------------------------------------------------------------------------------
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cached_reward_is_asked_once_for_each_sample_and_condition(tmp_path, on_disk):
    counted = Counted()
    folder = tmp_path if on_disk else None
    reward = rewards.Cached(rewards.FunctionReward(counted), folder, "counted")
    prompts = ["a", "bb", "ccc", "a", "bb", "ccc"]
    first = reward(X, prompts)
    torch.testing.assert_close(first, X.sum(1) + torch.tensor([1, 2, 3, 1, 2, 3]))
    torch.testing.assert_close(reward(X.flip(0), prompts[::-1]), first.flip(0), rtol=0, atol=0)
    assert counted.asked == 6
    reward(torch.cat([X[:1], X[:1], X[:2] + 1]), ["a", "a", "x", "x"])
    assert counted.asked == 8
    reward(X, ["other"] * 6)
    assert counted.asked == 14
    later = rewards.Cached(rewards.FunctionReward(counted), folder, "counted")
    torch.testing.assert_close(later(X, prompts), first, rtol=0, atol=0)
    assert counted.asked == (14 if on_disk else 20)
    cond = Condition(texts=["a", "b"], number=torch.tensor([1.0, 2.0]))
    key = reward.key(X[0], cond[:1])
    assert key == reward.key(X[0], cond[:1])
    assert key != reward.key(X[0], Condition(texts=["a"], number=torch.tensor([2.0])))


def test_one_folder_tells_rewards_apart_and_keeps_nan(tmp_path):
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for reward in (rewards.Brightness(), rewards.Symmetry(), rewards.Colour([0.1, 0.2, 0.9])):
        kept = rewards.Cached(reward, tmp_path)
        torch.testing.assert_close(kept(x), reward(x))
        torch.testing.assert_close(kept(x), reward(x))
    other = rewards.Cached(rewards.Colour([0.9, 0.2, 0.1]), tmp_path)
    torch.testing.assert_close(other(x), rewards.Colour([0.9, 0.2, 0.1])(x))
    nan = rewards.Cached(rewards.FunctionReward(lambda x: x[:, 0, 0, 0] / 0 * 0), tmp_path, "nan")
    assert nan(x).isnan().all()
    assert nan(x).isnan().all()
    with pytest.raises(ValueError, match="give name="):
        rewards.Cached(rewards.FunctionReward(lambda x: x.sum((1, 2, 3))), tmp_path)


def test_a_cached_reward_has_its_gradient():
    reward = rewards.Cached(rewards.Quadratic([0.0, 0.0], 1.0))
    reward(X)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x).sum(), x)
    torch.testing.assert_close(gradient, -X)
    assert not rewards.Cached(
        rewards.FunctionReward(Counted(), differentiable=False)
    ).differentiable


# --- another device -----------------------------------------------------------------------------
def test_a_reward_keeps_its_precision_and_gives_that_of_the_samples():
    reward = rewards.OnDevice(rewards.Linear([1.0, 1 / 3]), "cpu", "bfloat16")
    found = torch.nn.ModuleList([reward]).double()[0](X)
    assert found.dtype == torch.float64
    exact = X @ torch.tensor([1.0, 1 / 3], dtype=torch.float64)
    assert 1e-5 < (found - exact).abs().max() < 0.02  # 8 bits
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x).sum(), x)
    torch.testing.assert_close(gradient[0], torch.tensor([1.0, 1 / 3]).double(), rtol=4e-3, atol=0)
    with pytest.raises(ValueError, match=r"OnDevice: device 'cuda:77' cannot be used"):
        rewards.OnDevice(rewards.Linear([1.0]), "cuda:77")


# --- groups -------------------------------------------------------------------------------------
def rank(x):
    return x[:, 0].argsort().argsort().to(x) / (len(x) - 1)


def test_a_groupwise_reward_sees_the_samples_of_each_prompt_and_no_others():
    prompts = ["a", "b", "a", "b", "a", "b"]
    reward = rewards.Groupwise(rank, size=3)
    found = reward(X, prompts)
    torch.testing.assert_close(found[::2], rank(X[::2]))
    torch.testing.assert_close(found[1::2], rank(X[1::2]))
    order = torch.tensor([4, 1, 0, 3, 5, 2])
    torch.testing.assert_close(reward(X[order], [prompts[k] for k in order]), found[order])
    torch.testing.assert_close(rewards.Groupwise(rank)(X), rank(X))
    assert not reward.independent
    assert not rewards.Ensemble([reward, rewards.Linear([1.0, 2.0])]).independent
    with pytest.raises(ValueError, match="expected 3 samples of a prompt at once, got 2"):
        reward(X[:4], prompts[:4])
    with pytest.raises(ValueError, match="the value of a groupwise reward depends on the group"):
        rewards.Cached(reward)


def test_a_groupwise_reward_has_the_gradient_of_its_function():
    reward = rewards.Groupwise(lambda x, cond: -(x - x.mean(0)).square().sum(1) * len(cond[0]))
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x, ["a", "bb"] * 3).sum(), x)
    expected = torch.zeros_like(X)
    for k, prompt in enumerate(["a", "bb"]):
        group = X[k::2]
        expected[k::2] = -2 * len(prompt) * (group - group.mean(0))
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(ValueError, match=r"expected 6 numbers of '<lambda>', one for each sample"):
        rewards.Groupwise(lambda x: x)(X)


# --- objects ------------------------------------------------------------------------------------
def seen(label, left, top, score=0.95, color=None, size=10):
    found = {"label": label, "score": score, "box": (left, top, left + size, top + size)}
    return found if color is None else {**found, "color": color}


DOG_AND_CUPS = [
    seen("dog", 50, 20, color="black"),
    seen("cup", 10, 20, 0.8, "red"),
    seen("cup", 80, 20, 0.5, "blue"),
    seen("cup", 30, 80, 0.2, "red"),
]


@pytest.mark.parametrize(
    ("include", "tag", "holds"),
    [
        ([{"class": "dog", "count": 1}], "single_object", 1),
        ([{"class": "cat", "count": 1}], "single_object", 0),
        ([{"class": "dog", "count": 1}, {"class": "cat", "count": 1}], "two_object", 0),
        ([{"class": "cup", "count": 2}], "two_object", 1),
        ([{"class": "cup", "count": 3}], "two_object", 0),  # the third is too uncertain
        ([{"class": "cup", "count": 2}], "counting", 0),  # counting asks for .9
        ([{"class": "cup", "count": 1, "color": "red"}], "colors", 1),
        ([{"class": "cup", "count": 1, "color": "blue"}], "colors", 0),  # the surest one is red
        (
            [
                {"class": "dog", "count": 1},
                {"class": "cup", "count": 1, "position": ["left of", 0]},
            ],
            "position",
            1,
        ),
        (
            [{"class": "dog", "count": 1}, {"class": "cup", "count": 1, "position": ["above", 0]}],
            "position",
            0,
        ),
        (
            [
                {"class": "cat", "count": 1},
                {"class": "cup", "count": 1, "position": ["left of", 0]},
            ],
            "position",
            0,
        ),
    ],
)
def test_objects_are_counted_as_asked(include, tag, holds):
    reward = rewards.DetectedObjects(lambda x: [DOG_AND_CUPS] * len(x))
    cond = Condition(texts=["any"], include=[json.dumps(include)], tag=[tag])
    assert reward(torch.zeros(1, 3, 8, 8), cond).tolist() == [holds]


def test_what_is_excluded_and_the_share_that_holds():
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]
    exclude = [{"class": "cup", "count": 3}, {"class": "cup", "count": 2}]
    cond = Condition(include=[json.dumps(include)], exclude=[json.dumps(exclude)])
    detector = lambda x: [DOG_AND_CUPS]  # noqa: E731
    x = torch.zeros(1, 3, 8, 8)
    assert rewards.DetectedObjects(detector)(x, cond).tolist() == [0.0]
    assert rewards.DetectedObjects(detector, partial=True)(x, cond).tolist() == [0.5]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((-30, 0), {"left of"}),
        ((30, 1), {"right of"}),
        ((0, -30), {"above"}),
        ((5, 30), {"below"}),
        ((-30, -30), {"left of", "above"}),
        ((1, 1), set()),
        ((-2, 0), set()),  # a tenth of both sizes, 10 each
        ((-3, 0), set()),  # beyond it by a third of the offset
        ((-5, 0), {"left of"}),  # beyond it by three fifths
    ],
)
def test_relations_of_boxes(offset, expected):
    from rewards.detected_objects import relations

    assert relations(seen("a", 100 + offset[0], 100 + offset[1]), seen("b", 100, 100)) == expected


def test_a_detector_that_errs_is_told_on_one_line():
    x = torch.zeros(1, 3, 8, 8)
    cond = Condition(include=['[{"class": "cup", "count": 1, "color": "red"}]'])
    for found, complaint in (
        ([[seen("cup", 0, 0)]], "asks for a colour and the detector names none"),
        ([], "expected a list of 1 lists of detections"),
        ([[{"name": "cup"}]], "expected detections with label, score and box"),
    ):
        with pytest.raises(ValueError, match=complaint):
            rewards.DetectedObjects(lambda x, found=found: found)(x, cond)
    with pytest.raises(ValueError, match="expected the field include in a Condition"):
        rewards.DetectedObjects(lambda x: [[]])(x, ["a cup"])
    with pytest.raises(ValueError, match=r"expected include as a list of .* got 'a cup'"):
        rewards.DetectedObjects(lambda x: [[]])(x, Condition(include=["a cup"]))
