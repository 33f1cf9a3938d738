"""The quadratic reward: a Gaussian pull toward one place, the tilt whose law is known in closed
form.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward

__all__ = ["Quadratic"]


class Quadratic(Reward):
    """r(x) = -precision / 2 |x - center|^2.

    Tilting by it multiplies a density by a Gaussian, so a mixture of Gaussians stays one: answers
    known exactly.

    Args:
        center: where the reward is largest, of the shape of one sample, (d,) or (c, h, w); numbers
            or a tensor.
        precision: how fast it falls, at least 0; 1 / precision is the variance of that Gaussian.

    Raises:
        ValueError: if precision is negative or not finite; when called, if a sample has another
            shape than the center.
    """

    center: Tensor

    def __init__(self, center: Tensor | Sequence[float], precision: float) -> None:
        super().__init__()
        if not 0 <= precision < math.inf:
            raise ValueError(
                f"Quadratic: expected a finite precision >= 0, got {precision}: it is 1 / variance"
            )
        self.register_buffer(
            "center", 1.0 * torch.as_tensor(center)
        )  # whole numbers become floating point
        self.precision = float(precision)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        if x.shape[1:] != self.center.shape:
            expected = tuple(self.center.shape)
            got = tuple(x.shape[1:])
            raise ValueError(
                f"Quadratic: expected samples of the center's shape {expected}, got {got}: mend the center"
            )
        return -self.precision / 2 * (x - self.center.to(x)).square().flatten(1).sum(1)

    def extra_repr(self) -> str:
        return f"center={tuple(self.center.shape)}, precision={self.precision:g}"
