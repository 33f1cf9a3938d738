"""Colour: how near the overall tint of an image is to a wanted one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Colour"]


class Colour(Reward):
    """r(x) = -|mean colour of x - target|^2, at most 0.

    Only the mean over the image is judged, so that its contrasts may stay.

    Args:
        target: the wanted colour, one number in [0, 1] per channel: three for RGB, one for
            greyscale.

    Raises:
        ValueError: if the target leaves [0, 1]; when called, if an image has another number of
            channels.
    """

    target: Tensor

    def __init__(self, target: Tensor | Sequence[float]) -> None:
        super().__init__()
        target = 1.0 * torch.as_tensor(target)
        if target.ndim != 1 or (target < 0).any() or (target > 1).any():
            raise ValueError(
                f"Colour: expected one number in [0, 1] per channel, got {target.tolist()}: divide by 255"
            )
        self.register_buffer("target", target)

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        if x.shape[1] != len(self.target):
            expected = len(self.target)
            got = x.shape[1]
            raise ValueError(
                f"Colour: expected images of {expected} channels, got {got}: give a target of {got} numbers"
            )
        return -(x.mean((2, 3)) - self.target.to(x)).square().sum(1)

    def extra_repr(self) -> str:
        return f"target={self.target.tolist()}"
