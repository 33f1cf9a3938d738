"""Symmetry: the distance of an image from its mirror image."""

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Symmetry"]


class Symmetry(Reward):
    """r(x) = -mean (x - mirror(x))^2 over pixels and channels, mirrored left to right."""

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        return -(x - x.flip(-1)).square().mean((1, 2, 3))
