"""Hard constraints (rewards of -inf) on the way to the data.

A noisy particle whose look-ahead breaks a constraint may still end where it holds, so a weight of
zero before t = 1 would leave out part of the tilted law. Until then such a value counts as the mean
of its prompt's other particles, less one. Weights remain right: along a path they telescope to
exp(scale r) at its end whatever values stood in between. A much lower value would make the weights
of those that come back heavy-tailed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

PENALTY = 1.0


def softened(value: Float[Tensor, "p n"], t: float) -> Float[Tensor, "p n"]:
    """The values of look-aheads at time t, finite before t = 1."""
    broken = value == -torch.inf
    if t == 1.0 or not broken.any():
        return value
    allowed = (~broken).sum(dim=1, keepdim=True)
    mean = torch.where(broken, 0.0, value).sum(dim=1, keepdim=True) / allowed.clamp_min(1)
    return torch.where(broken, torch.where(allowed > 0, mean - PENALTY, 0.0), value)
