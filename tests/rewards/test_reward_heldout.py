"""The rewards that nothing is steered by, on images whose answer is known."""

import zlib

import torch

from rewards import DeflatedSize, LeftLit, MirrorLikeness


def test_left_lit_counts_pixels():
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :, :2] = 0.3  # all of the left half
    x[1, 0, 0] = 0.1  # below the threshold
    x[1, 0, 1, 3] = 1.0  # one pixel of eight on the right
    assert LeftLit()(x).tolist() == [1.0, -0.125]


def test_an_image_is_like_its_mirror_image_when_it_is_one():
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    x[0] = (x[0] + x[0].flip(-1)) / 2
    whole, other = MirrorLikeness()(x)
    torch.testing.assert_close(whole, torch.tensor(1.0))
    assert other < 0.5
    torch.testing.assert_close(MirrorLikeness()(x[1:]), other[None])  # batch mates change nothing


def test_deflated_size_is_that_of_the_bytes():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = bytes((x * 255).round().byte().flatten().tolist())
    torch.testing.assert_close(
        DeflatedSize()(x), torch.tensor([-len(zlib.compress(pixels, 9)) / 1000])
    )
    assert DeflatedSize()(torch.zeros(1, 1, 8, 8)) > DeflatedSize()(x)
