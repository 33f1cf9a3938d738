"""The linear reward, whose tilt of a Gaussian mixture is known in closed form."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Linear"]


class Linear(Reward):
    """r(x) = <direction, x> + offset.

    Tilting a mixture of Gaussians by it moves each component by covariance times direction and
    leaves the covariances unchanged. It has no upper bound.

    Args:
        direction: of the shape of one sample, (d,) or (c, h, w); numbers or a tensor.
        offset: a constant, which changes log Z only.

    Raises:
        ValueError: when called, if a sample has another shape than the direction.
    """

    direction: Tensor

    def __init__(self, direction: Tensor | Sequence[float], offset: float = 0.0) -> None:
        super().__init__()
        # times 1.0: whole numbers become floating point
        self.register_buffer("direction", 1.0 * torch.as_tensor(direction))
        self.offset = float(offset)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        if x.shape[1:] != self.direction.shape:
            expected = tuple(self.direction.shape)
            got = tuple(x.shape[1:])
            raise ValueError(f"Linear: expected samples of shape {expected}, got {got}")
        return (x * self.direction.to(x)).flatten(1).sum(1) + self.offset

    def extra_repr(self) -> str:
        return f"direction={tuple(self.direction.shape)}, offset={self.offset:g}"
