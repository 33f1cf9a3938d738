"""Training of posterior maps: any objective for flow maps, on p(x1 | x_t) in place of the data.

Each x1 of a batch is hidden at a time t of its own in x_t = alpha_t x1 + sigma_t x0' with fresh
noise x0', and the inner map learns the path from the batch's noise to y = s x1 - c x0'
(`steer.lookahead.glass_flow`), given Context(x_t, t, schedule, cond). As x1 is a draw from p(x1 |
x_t), flow matching on y_u is minimised by the posterior's own velocity, and the objectives off the
diagonal make its flow map of it, as they would for any other distribution.

References: Potaptchik et al. 2026, arXiv 2601.14430 (Meta Flow Maps, from scratch); Holderrieth et
al. 2026, arXiv 2602.05993 (Diamond Maps, distilled from GLASS).
"""

import torch
from torch import Generator, Tensor

from steer.flow_map import Cond, ResidualMap
from steer.interpolant import Linear, Schedule
from steer.lookahead.glass_flow import Context
from steer.training.base import Loss, Objective
from steer.training.times import TimeLaw, Uniform

__all__ = ["Posterior"]


class Posterior(Objective):
    """An objective for the inner map of a PosteriorMap.

    From scratch: Posterior(Joint(FlowMatching(), Lagrangian())). Distilled from an outer map
    through its GlassFlow g: Posterior(Joint(VelocityMatching(g), Lagrangian())), or
    Posterior(Joint(None, Lagrangian(), velocity=TeacherTarget(g))).

    Args:
        objective: what the inner map should minimise, given (e, y) for (x0, x1) and a Context for
            cond.
        schedule: the outer path, that of the map to be steered; Linear() by default.
        times: law of t on it; uniform by default.
    """

    def __init__(
        self, objective: Objective, schedule: Schedule | None = None, times: TimeLaw | None = None
    ):
        super().__init__()
        self.objective = objective
        self.schedule = schedule or Linear()
        self.times = times or Uniform()
        self.guidance = objective.guidance

    @property
    def learns_from(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.objective.learns_from

    def forward(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        cond: Cond,
        generator: Generator,
        step: int,
    ) -> Loss:
        t = self.times.sample(len(x1), generator)
        fresh = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=x1.device)
        context = Context(self.schedule.interpolate(fresh, x1, t), t, self.schedule, cond)
        return self.objective(flow_map, x0, context.hidden(fresh, x1), context, generator, step)
