"""The laws of every reward, for every concrete class that a walk through the package finds."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import rewards
from rewards.networks import ResidualClassifier
from rewards.operators import Mask
from steer import Condition

B = 5
PLANE = (2,)
GREY = (1, 28, 28)
RGB = (3, 12, 16)
PICTURE = torch.rand(RGB, generator=torch.Generator().manual_seed(4))
MASK = Mask.box(GREY, 8, 8, 10, 12)
IMAGES = torch.rand(B, *GREY, generator=torch.Generator().manual_seed(3))
WIGGLE = rewards.FunctionReward(lambda x: torch.sin(3 * x).flatten(1).sum(1))
EXAMPLES = {
    # class: (how to build it, the shape of a sample, one condition per sample); a class that is
    # missing here is built without arguments and looks at RGB images
    "FunctionReward": (
        lambda: rewards.FunctionReward(lambda x, cond: x.prod(1) * cond),
        PLANE,
        torch.arange(B),
    ),
    "Quadratic": (lambda: rewards.Quadratic([0.5, -1.0], precision=3.0), PLANE, None),
    "Linear": (lambda: rewards.Linear([0.5, -1.0], offset=2.0), PLANE, None),
    "Sum": (
        lambda: rewards.Sum({"a": WIGGLE, "b": rewards.Linear([1.0, 2.0])}, {"b": -0.5}),
        PLANE,
        None,
    ),
    "Decoded": (lambda: rewards.Decoded(rewards.Brightness(), rewards.from_signed), RGB, None),
    "Clipped": (lambda: rewards.Clipped(WIGGLE, low=-0.5), PLANE, None),
    "Ensemble": (
        lambda: rewards.Ensemble([WIGGLE, rewards.Linear([1.0, 2.0])], pessimism=0.5),
        PLANE,
        None,
    ),
    "Switch": (
        lambda: rewards.Switch(
            {0: WIGGLE, 3: rewards.Linear([1.0, 2.0])}, otherwise=rewards.Quadratic([0.0, 1.0], 2.0)
        ),
        PLANE,
        torch.tensor([3, 0, 1, 3, 4]),
    ),
    "Smoothed": (lambda: rewards.Smoothed(rewards.Symmetry(), 0.1, shift=2), RGB, None),
    "Colour": (lambda: rewards.Colour([0.9, 0.1, 0.2]), RGB, None),
    "ClassLogProbability": (
        lambda: rewards.ClassLogProbability(ResidualClassifier(width=8)),
        GREY,
        torch.arange(B),
    ),
    "Measurement": (
        lambda: rewards.Measurement(MASK, MASK(IMAGES), 0.5),
        GREY,
        torch.arange(B).flip(0),
    ),
    "SceneAccuracy": (
        lambda: rewards.SceneAccuracy(
            lambda x, captions: {
                "overall": torch.tensor(
                    [float(len(c) * v.sum() > 1500) for v, c in zip(x, captions, strict=True)]
                )
            }
        ),
        RGB,
        ["a red heart", "a star", "two moons", "a key", "a blue bell"],
    ),
    "Standardised": (lambda: rewards.Standardised(WIGGLE, 0.5, 3.0), PLANE, None),
    "Cached": (lambda: rewards.Cached(WIGGLE), PLANE, None),
    "OnDevice": (lambda: rewards.OnDevice(WIGGLE, "cpu"), PLANE, None),
    "Groupwise": (lambda: rewards.Groupwise(deviation), PLANE, torch.tensor([1, 0, 1, 1, 0])),
    "Psnr": (lambda: rewards.Psnr(PICTURE), RGB, None),
    "Ssim": (lambda: rewards.Ssim(PICTURE), RGB, None),
    "DetectedObjects": (
        lambda: rewards.DetectedObjects(bright_cups),
        RGB,
        Condition(include=['[{"class": "cup", "count": 1}]'] * B),
    ),
}
PROMPTS = ["a shirt", "a bag", "a shirt", "", "a boot"]
WITH_FILES = {
    # class: the same, built from a function that returns a fixture by its name
    "ClipScore": (lambda get: rewards.ClipScore(*get("tiny_clip")), RGB, PROMPTS),
    "PickScore": (
        lambda get: rewards.PickScore(get("hugging_clip")[1], "tiny-clip"),
        RGB,
        PROMPTS,
    ),
    "HpsV2": (lambda get: rewards.HpsV2(get("tiny_clip")[1], "tiny-clip"), RGB, PROMPTS),
    "AestheticV1": (
        lambda get: rewards.AestheticV1(str(get("ratings")[2] / "linear.pth"), *get("tiny_clip")),
        RGB,
        None,
    ),
    "AestheticV2": (
        lambda get: rewards.AestheticV2(str(get("ratings")[2] / "mlp.pth"), *get("tiny_clip")),
        RGB,
        None,
    ),
    "ClipDirection": (
        lambda get: rewards.ClipDirection("a photo", "a sketch", PICTURE, *get("tiny_clip")),
        RGB,
        None,
    ),
    "ConceptPenalty": (
        lambda get: rewards.ConceptPenalty(["a gun", "blood"], -1.0, *get("tiny_clip")),
        RGB,
        None,
    ),
    "ClipIqa": (
        lambda get: rewards.ClipIqa("Good photo.", "Bad photo.", *get("tiny_clip")),
        RGB,
        None,
    ),
    "Lpips": (
        lambda get: rewards.Lpips(get("backbone"), torch.full((3, 32, 32), 0.3), "squeeze"),
        (3, 32, 32),
        None,
    ),
    "ImageReward": (lambda get: rewards.ImageReward(*get("small_blip")[1:]), RGB, PROMPTS),
    "HttpReward": (lambda get: rewards.HttpReward(get("scorer_url")), RGB, PROMPTS),
    "VlmJudge": (lambda get: rewards.VlmJudge(get("judge_url"), "tiny-vlm"), RGB, PROMPTS),
}

STEPS = {"Lpips": 1e-7}  # of differences; its maxima and rectifiers have kinks every 1e-5


def deviation(x):
    """How far each sample is from the mean of its group."""
    return (x - x.mean(0)).square().sum(1)


def bright_cups(x):
    """A cup as certain as the picture is bright."""
    return [[{"label": "cup", "score": float(v.mean()), "box": (0, 0, 1, 1)}] for v in x]


def concrete_rewards():
    modules = [
        importlib.import_module(m.name) for m in pkgutil.walk_packages(rewards.__path__, "rewards.")
    ]
    classes = {c for module in modules for c in vars(module).values() if inspect.isclass(c)}
    return sorted(
        (c for c in classes if issubclass(c, rewards.Reward) and not inspect.isabstract(c)),
        key=lambda c: c.__name__,
    )


@pytest.fixture(params=concrete_rewards(), ids=lambda c: c.__name__)
def example(request):
    torch.manual_seed(0)
    name = request.param.__name__
    if name in WITH_FILES:
        build, shape, cond = WITH_FILES[name]
        reward = build(request.getfixturevalue)
    else:
        build, shape, cond = EXAMPLES.get(name, (request.param, RGB, None))
        reward = build()
    assert type(reward) is request.param
    x = torch.rand(B, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * torch.linspace(0.2, 1, B, dtype=x.dtype).view(-1, *[1] * len(shape))  # dark to bright
    return reward.double(), x, cond


def test_walk_finds_the_package():
    names = {c.__name__ for c in concrete_rewards()}
    assert names == {name for name in rewards.__all__ if name[0].isupper()} - {"Reward"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_number_per_sample(example, dtype):
    reward, x, cond = example
    value = reward.to(dtype)(x.to(dtype), cond)
    assert value.shape == (B,)
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert value.unique().numel() > 1


def test_batch_mates_do_not_matter(example):
    reward, x, cond = example
    alone = [reward(x[i : i + 1], None if cond is None else cond[i : i + 1]) for i in range(B)]
    together = reward(x, cond)
    if reward.independent:
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-12)
    else:
        assert (together - torch.cat(alone)).abs().max() > 1e-3


def test_gradient_is_the_finite_difference(example):
    reward, x, cond = example
    if not reward.differentiable:
        assert not reward(x.requires_grad_(), cond).requires_grad
        assert reward.why_not_differentiable.endswith(".")
        assert reward.instead.endswith(".")
        return
    (gradient,) = torch.autograd.grad(reward(x.requires_grad_(), cond).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    h = STEPS.get(type(reward).__name__, 1e-5)
    with torch.no_grad():
        difference = (reward(x + h * direction, cond) - reward(x - h * direction, cond)) / (2 * h)
    slope = (gradient * direction).flatten(1).sum(1)
    if not reward.independent:  # the gradient is that of all rewards together
        slope, difference = slope.sum(), difference.sum()
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


def test_no_grad_changes_nothing(example):
    reward, x, cond = example
    with torch.no_grad():
        value = reward(x, cond)
    assert not value.requires_grad
    torch.testing.assert_close(
        value, reward(x.requires_grad_(), cond).detach(), rtol=1e-10, atol=1e-12
    )


def test_stays_in_evaluation_mode(example):
    reward, _, _ = example
    nn.ModuleList([reward]).train()
    assert not any(module.training for module in reward.modules())
    assert not any(parameter.requires_grad for parameter in reward.parameters())


def test_terms_are_rewards_too(example):
    reward, x, cond = example
    assert all(value.shape == (B,) for value in reward.terms(x, cond).values())
