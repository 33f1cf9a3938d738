"""Reward feedback learning (ReFL): the reward of the posterior mean at a random late step.

    L = -E[scale r(E[x1 | x_t])] + penalty E int |b_t - b_base|^2 dt + consistency L_map,

x_t after a random number of Euler steps without gradient, late enough for the posterior mean
(sigma' x_t - sigma u_{t,t}) / (alpha sigma' - alpha' sigma) to look like a sample. The gradient
goes through that one velocity, so it moves late times alone. L_map is on the samples that the steps
end at: the posterior means, less sharp than these, would blur the map.

As published the loss is a hinge, E max(0, 2 - r), times 1e-3, beside the loss of pre-training,
where L_map stands here.

Reference: Xu et al. 2023, arXiv 2304.05977 (ImageReward).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.training import Objective
from steer.tuning.direct import Direct
from steer.tuning.rollouts import LateStep

__all__ = ["ReFL"]


class ReFL(Direct):
    """Ascends the reward of the posterior mean at a random late step.

    Args:
        rollout: the steps, and which of them are late; 40, of which the last 10, by default.
        hinge: scale * r above which a sample no longer counts, 2 as published; None for no such
            end.
        penalty, consistency, objective, share: as in Direct.

    Raises:
        ValueError: as Direct.
        NonFiniteReward: as Direct.
    """

    def __init__(
        self,
        rollout: LateStep | None = None,
        hinge: float | None = None,
        penalty: float = 0.0,
        consistency: float = 1.0,
        objective: Objective | None = None,
        share: float = 1.0,
    ):
        super().__init__(rollout or LateStep(), penalty, consistency, objective, share)
        self.hinge = hinge

    def descent(self, gain: Float[Tensor, "n"]) -> Tensor:
        return -gain.mean() if self.hinge is None else torch.relu(self.hinge - gain).mean()
