"""Velocity matching: the tangent of the map, learned from a teacher's instead of from data.

    L_diag = E |u_{t,t}(I_t) - b_teacher(I_t)|^2,     I_t = alpha_t x1 + sigma_t x0.

The minimiser is that of flow matching if the teacher is exact, without the variance of I_t' given
I_t. Cost: one forward, one backward, one velocity of the teacher.
"""

import torch
from torch import Generator, Tensor

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.training.base import Loss, Objective, mean_square
from steer.training.target_networks import TeacherTarget
from steer.training.times import TimeLaw, Uniform
from steer.training.weightings import Plain, Weighting

__all__ = ["VelocityMatching"]


class VelocityMatching(Objective):
    """Regression of the velocity on a frozen teacher's, at independent times.

    Args:
        teacher: a FlowMap on the student's path, given the same conditions.
        times: law of t; uniform by default.
        weighting: of the residuals, at (t, t).

    Raises:
        ValueError: when first called, if the teacher is on another path, or takes samples of
            another shape.
    """

    learns_from = ("a teacher",)

    def __init__(
        self, teacher: FlowMap, times: TimeLaw | None = None, weighting: Weighting | None = None
    ):
        super().__init__()
        self.teacher = TeacherTarget(teacher)
        self.times = times or Uniform()
        self.weighting = weighting or Plain()
        self.guidance = teacher.guidance

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
        x_t = flow_map.schedule.interpolate(x0, x1, t)
        with torch.no_grad():
            teacher = self.teacher(flow_map, step)
            self.teacher.check(x_t, cond)
            b = teacher.velocity(x_t, t, cond)
        residual = mean_square(flow_map.velocity(x_t, t, cond) - b)
        return Loss.of(self, self.weighting(residual, t, t).mean(), "diagonal", residual, t, t)
