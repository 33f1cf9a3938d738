"""Held-out rewards, measures of the same wishes by other means; images (B, C, H, W) in [0, 1]."""

import zlib

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from rewards.base import Cond, Reward


class LeftLit(Reward):
    """The share of bright pixels in the left half, less that in the right.

    Args:
        threshold: above it a pixel counts as bright.
    """

    differentiable = False
    why_not_differentiable = "LeftLit counts pixels."
    instead = "Steer by rewards.LeftBrighter."

    def __init__(self, threshold: float = 0.2) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        lit = (x > self.threshold).to(x)
        half = x.shape[-1] // 2
        return lit[..., :half].mean((1, 2, 3)) - lit[..., -half:].mean((1, 2, 3))


class MirrorLikeness(Reward):
    """The structural similarity (SSIM) of an image and its mirror image, at most 1.

    Source: Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        found = structural_similarity_index_measure(x, x.flip(-1), data_range=1.0, reduction="none")
        assert isinstance(found, Tensor)
        return found


class DeflatedSize(Reward):
    """-(kilobytes of the image after zlib at its highest level), a measure of simplicity."""

    differentiable = False
    why_not_differentiable = "DeflatedSize counts bytes."
    instead = "Use a method that only compares rewards, such as BestOfN."

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        pixels = (x.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
        sizes = [-len(zlib.compress(image.tobytes(), 9)) / 1000 for image in pixels]
        return torch.tensor(sizes, dtype=x.dtype, device=x.device)
