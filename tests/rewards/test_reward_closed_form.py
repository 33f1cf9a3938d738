"""Hand-computed values of the rewards that are one formula."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rewards import (
    Brightness,
    ClassLogProbability,
    Colour,
    JpegSize,
    LeftBrighter,
    Linear,
    Quadratic,
    Symmetry,
)


def test_quadratic():
    reward = Quadratic(torch.tensor([1, 2]), precision=4.0)
    assert reward.center.tolist() == [1.0, 2.0]
    assert reward.precision == 4.0
    assert reward(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).tolist() == [0.0, -2 * (1 + 4)]
    image = Quadratic(torch.zeros(1, 2, 2), precision=1.0)
    assert image(torch.ones(3, 1, 2, 2)).tolist() == [-2.0] * 3


def test_quadratic_refuses():
    with pytest.raises(ValueError, match="precision >= 0, got -1"):
        Quadratic([0.0], precision=-1.0)
    with pytest.raises(ValueError, match=r"center's shape \(3,\), got \(2,\)"):
        Quadratic([0.0, 0.0, 0.0], precision=1.0)(torch.ones(4, 2))


def test_linear():
    reward = Linear(torch.tensor([1, -2]), offset=3.0)
    assert reward.direction.tolist() == [1.0, -2.0]
    assert reward(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).tolist() == [0.0, -3.0]
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        reward(torch.ones(4, 3))


def test_brightness():
    black_and_white = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)])
    assert Brightness()(black_and_white).tolist() == [0.0, 1.0]


def test_colour():
    x = torch.tensor([0.5, 0.25, 0.0])[:, None, None].expand(1, 3, 2, 2)
    assert Colour([0.0, 0.25, 0.5])(x).tolist() == [-0.5]
    assert Colour([0.5])(x[:, :1]).tolist() == [0.0]
    with pytest.raises(ValueError, match="expected images of 3 channels, got 1"):
        Colour([0.0, 0.25, 0.5])(x[:, :1])
    with pytest.raises(ValueError, match="divide by 255"):
        Colour([255.0, 0.0, 0.0])


def test_symmetry():
    x = torch.tensor([[[[0.0, 1.0, 0.0]]], [[[0.0, 1.0, 0.6]]]], dtype=torch.float64)
    torch.testing.assert_close(
        Symmetry()(x), torch.tensor([0.0, -2 * 0.36 / 3], dtype=torch.float64)
    )
    assert Symmetry()(torch.rand(1, 1, 5, 1).expand(1, 1, 5, 4)).item() == 0.0


def test_left_brighter():
    x = torch.tensor([[[[0.8, 0.4, 0.1, 0.3]]], [[[0.0, 1.0, 1.0, 1.0]]]], dtype=torch.float64)
    torch.testing.assert_close(LeftBrighter()(x), torch.tensor([0.4, -0.5], dtype=torch.float64))
    torch.testing.assert_close(
        LeftBrighter()(x[..., :3]), torch.tensor([0.7, -1.0], dtype=torch.float64)
    )
    torch.testing.assert_close(LeftBrighter()(x.flip(-1)), -LeftBrighter()(x))
    with pytest.raises(ValueError, match="expected images at least 2 wide"):
        LeftBrighter()(x[..., :1])


def test_jpeg_size_is_the_size_of_the_file():
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    file = BytesIO()
    pixels = np.asarray((x[0] * 255).round().byte().permute(1, 2, 0))
    Image.fromarray(pixels).save(file, "JPEG", quality=60)
    value = JpegSize(quality=60)(x)
    assert value[0].item() == pytest.approx(-len(file.getvalue()) / 1000)
    assert torch.equal(value, JpegSize(quality=60)(x))


def test_jpeg_size_likes_simple_images():
    flat = torch.zeros(1, 1, 28, 28)
    noise = torch.rand(1, 1, 28, 28)
    assert JpegSize()(flat) > JpegSize()(noise)
    assert JpegSize(quality=30)(noise) > JpegSize(quality=90)(noise)
    assert JpegSize()(flat - 1) == JpegSize()(flat)


def test_jpeg_size_refuses():
    assert JpegSize()(torch.tensor([math.nan, 0.0])[:, None, None, None]).isnan().tolist() == [
        True,
        False,
    ]
    with pytest.raises(ValueError, match="1 to 95, got 0"):
        JpegSize(quality=0)
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        JpegSize()(torch.zeros(1, 4, 8, 8))


LOGITS = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])


def test_class_log_probability():
    torch.testing.assert_close(
        ClassLogProbability(nn.Identity(), target=1)(LOGITS),
        torch.tensor([0.75, 0.2]).log(),
        rtol=1e-6,
        atol=0,
    )
    torch.testing.assert_close(
        ClassLogProbability(nn.Identity())(LOGITS, torch.tensor([0, 0])),
        torch.tensor([0.25, 0.8]).log(),
    )


@pytest.mark.parametrize(
    ("target", "cond", "complaint"),
    [
        (None, None, "one class label per sample in cond, got none"),
        (None, ["a", "b"], "got list"),
        (None, torch.zeros(2), "got a torch.float32 tensor"),
        (None, torch.tensor([0]), r"shape \(1,\)"),
        (None, torch.tensor([0, -1]), "labels from 0 to 1, got -1"),
        (2, None, "labels from 0 to 1, got 2"),
    ],
)
def test_class_log_probability_refuses(target, cond, complaint):
    with pytest.raises(ValueError, match=complaint):
        ClassLogProbability(nn.Identity(), target)(LOGITS, cond)
