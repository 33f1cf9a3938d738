"""LeftBrighter: the difference in brightness of the left and right halves of an image."""

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["LeftBrighter"]


class LeftBrighter(Reward):
    """r(x) = mean of the left half - mean of the right half, over pixels and channels.

    It lies in [-1, 1] for images in [0, 1]. The middle column of an odd width belongs to neither
    half.

    Raises:
        ValueError: when called on images of a single column.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        if (half := x.shape[-1] // 2) < 1:
            raise ValueError(
                f"LeftBrighter: expected images at least 2 wide, got {tuple(x.shape)}: widen them"
            )
        return x[..., :half].mean((1, 2, 3)) - x[..., -half:].mean((1, 2, 3))
