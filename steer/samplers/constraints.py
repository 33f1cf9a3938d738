"""Hard constraints (rewards of -inf) on the way to the data.

A noisy particle whose look-ahead breaks a constraint may still end where it holds, so a weight of zero before t = 1 would leave
out part of the tilted law. Until then such a value counts as the lowest of its prompt's other particles, less log N. Weights
remain right: along a path they telescope to exp(scale r) at its end whatever values stood in between.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def softened(value: Float[Tensor, "p n"], t: float) -> Float[Tensor, "p n"]:
    """The values of look-aheads at time t, finite before t = 1."""
    broken = value == -torch.inf
    if t == 1.0 or not broken.any():
        return value
    lowest = torch.where(broken, torch.inf, value).min(dim=1, keepdim=True).values
    floor = torch.where(lowest == torch.inf, 0.0, lowest - math.log(value.shape[1]))
    return torch.where(broken, floor, value)
