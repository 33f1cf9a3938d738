"""Held-out rewards of images: other measures of what LeftBrighter, Symmetry and JpegSize reward.

They show whether a method that was steered by one of those gained what is meant by it.
"""

import zlib

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from steer.pixels import to_bytes

__all__ = ["DeflatedSize", "LeftLit", "MirrorLikeness"]


class LeftLit(Reward):
    """r(x) = share of lit pixels in the left half - share in the right half, in [-1, 1].

    The held-out measure of LeftBrighter: how far the object itself has moved. The middle column of
    an odd width belongs to neither half.

    Args:
        threshold: the value above which a pixel counts as lit.
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
    """r(x) = the structural similarity (SSIM) of an image and its mirror image, at most 1.

    The held-out measure of Symmetry.

    Reference: Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        # slow to import, and needed only here
        from torchmetrics.functional.image import structural_similarity_index_measure

        found = structural_similarity_index_measure(x, x.flip(-1), data_range=1.0, reduction="none")
        assert isinstance(found, Tensor)
        return found


class DeflatedSize(Reward):
    """r(x) = -(kilobytes of the 8-bit image after zlib at level 9); a kilobyte is 1000 bytes.

    The held-out measure of JpegSize: lossless compression of the bytes.
    """

    differentiable = False
    why_not_differentiable = "DeflatedSize counts bytes."
    instead = "Use a method that only compares rewards, such as BestOfN."

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        pixels = to_bytes(x).cpu().numpy()
        sizes = [-len(zlib.compress(image.tobytes(), 9)) / 1000 for image in pixels]
        return torch.tensor(sizes, dtype=x.dtype, device=x.device)
