"""Brightness: the mean pixel of an image."""

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Brightness"]


class Brightness(Reward):
    """r(x) = mean over all pixels and channels: 0 for a black image, 1 for a white one.

    With a negative weight in a Sum it rewards dark images.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        return x.mean((1, 2, 3))
