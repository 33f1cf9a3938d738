"""The linear reward: more and more along one direction, without end."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Linear"]


class Linear(Reward):
    """r(x) = <direction, x> + offset.

    Tilting by it moves each component of a mixture of Gaussians by covariance times direction and
    changes no width.

    Args:
        direction: of the shape of one sample, (d,) or (c, h, w); numbers or a tensor.
        offset: a constant, which changes log Z and nothing else.

    Raises:
        ValueError: when called, if a sample has another shape than the direction.
    """

    direction: Tensor

    def __init__(self, direction: Tensor | Sequence[float], offset: float = 0.0) -> None:
        super().__init__()
        self.register_buffer(
            "direction", 1.0 * torch.as_tensor(direction)
        )  # whole numbers become floating point
        self.offset = float(offset)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        if x.shape[1:] != self.direction.shape:
            expected = tuple(self.direction.shape)
            got = tuple(x.shape[1:])
            raise ValueError(
                f"Linear: expected samples of shape {expected}, got {got}: mend the direction"
            )
        return (x * self.direction.to(x)).flatten(1).sum(1) + self.offset

    def extra_repr(self) -> str:
        return f"direction={tuple(self.direction.shape)}, offset={self.offset:g}"
