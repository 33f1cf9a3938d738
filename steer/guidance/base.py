"""Flow maps with corrections added to their velocity."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond, FlowMap, OdeMap
from steer.interpolant import Time, batch_time
from steer.solvers import Euler, Solver

__all__ = ["Guidance", "Guided"]


class Guidance(ABC):
    """A correction to the velocity, guidance(flow_map, x, t, cond, generator)."""

    @abstractmethod
    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """Compute the correction at x and t, of the shape of x."""


class Guided(FlowMap):
    """A flow map with corrections added to its velocity, whose jumps integrate the sum.

    Score and denoiser are conversions of the sum. Its law is that of the deterministic flow of the
    sum. The converted score is not that of this flow, unless the corrections are the exact gradient
    of a value, so stochastic samplers draw from another law at every noise level: see `Sampler`.

    Args:
        flow_map: the model.
        guidances: corrections, added up.
        steps, solver: of a jump, since the map's own jumps do not include the guidance.
        generator: the random generator of guidances that draw, one for the whole batch: results
            then depend on the batch composition.

    Raises:
        ValueError: steps < 1.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        *guidances: Guidance,
        steps: int = 16,
        solver: Solver | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"Guided needs at least one step for its jumps; got steps={steps}")
        self.flow_map = flow_map
        self.guidances = guidances
        self.schedule = flow_map.schedule
        self.guidance = flow_map.guidance
        self.steps = steps
        self.solver = solver or Euler()
        self.generator = generator
        self.parts = nn.ModuleList(
            m for g in guidances for m in vars(g).values() if isinstance(m, nn.Module)
        )

    @property
    def score_matches_flow(self) -> bool:
        return not self.guidances and self.flow_map.score_matches_flow

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.from_noise(x0, cond)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        t = batch_time(t, x)
        v = self.flow_map.velocity(x, t, cond)
        for guidance in self.guidances:
            v = v + guidance(self.flow_map, x, t, cond, self.generator)
        return v

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return OdeMap(self, self.schedule, self.steps, self.solver)(x, s, t, cond)
