"""What every tuning objective is."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.samplers.base import Claim
from steer.tilt import Tilt
from steer.training.base import Loss

__all__ = ["TuningObjective"]


class TuningObjective(nn.Module, ABC):
    """objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss, for noise x0 (B, *shape)
    and a frozen base.

    A module, so that what it learns or keeps beside the map is trained and saved with it. `claim`
    says what the tuned model becomes: "maximiser" of the reward, "exact" or "biased" for the tilted
    law.
    """

    claim: Claim

    @abstractmethod
    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        """The loss on one batch at a training step; all randomness from the generator."""
