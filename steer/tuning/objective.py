"""The interface of tuning objectives."""

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
    """A tuning loss: objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss.

    It is a module, so that what it learns or keeps beside the map is trained and saved with it.

    Attributes:
        claim: what the tuned model becomes: a "maximiser" of the reward, or "exact" or "biased" for
            the tilted distribution.
        needs_gradient: whether it differentiates the reward.
    """

    claim: Claim
    needs_gradient: bool

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
        """Computes the loss of one batch, all randomness from the generator.

        Args:
            flow_map: the map being tuned.
            base: the map it started from, frozen.
            tilt: the reward and its scale.
            x0: noise.
            cond: conditions.
            generator: the source of all randomness.
            step: the training step.
        """
