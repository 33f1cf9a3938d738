"""Two-dimensional toy distributions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["checkerboard", "ring"]


def checkerboard(n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Draw n points uniform on the 8 dark unit squares of a 4 x 4 board over [-2, 2]^2."""
    corner = torch.randint(4, (n, 2), generator=generator)
    corner[:, 1] = 2 * (corner[:, 1] // 2) + corner[:, 0] % 2
    return corner - 2.0 + torch.rand(n, 2, generator=generator)


def ring(
    n: int, generator: torch.Generator, modes: int = 8, radius: float = 2.0, std: float = 0.2
) -> Float[Tensor, "n 2"]:
    """Draw n points from `modes` equal Gaussians evenly spaced on a circle."""
    angle = 2 * math.pi / modes * torch.randint(modes, (n,), generator=generator)
    centres = radius * torch.stack((angle.cos(), angle.sin()), dim=1)
    return centres + std * torch.randn(n, 2, generator=generator)
