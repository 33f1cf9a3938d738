"""Flow matching: the tangent of the map, learned from data.

    L_diag = E |u_{t,t}(I_t) - I_t'|^2,     I_t = alpha_t x1 + sigma_t x0,

minimised by u_{t,t} = b_t = E[I_t' | I_t]. Cost: one forward, one backward.

References: Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003; Albergo &
Vanden-Eijnden 2023, arXiv 2209.15571.
"""

from torch import Generator, Tensor

from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss, Objective, mean_square
from steer.training.times import TimeLaw, Uniform
from steer.training.weightings import Plain, Weighting

__all__ = ["FlowMatching"]


class FlowMatching(Objective):
    """Regression of the velocity on I_t' at independent times.

    Args:
        times: law of t; uniform by default.
        weighting: of the residuals, at (t, t).
    """

    learns_from = ("data",)

    def __init__(self, times: TimeLaw | None = None, weighting: Weighting | None = None):
        super().__init__()
        self.times = times or Uniform()
        self.weighting = weighting or Plain()

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
        v = flow_map.velocity(flow_map.schedule.interpolate(x0, x1, t), t, cond)
        residual = mean_square(v - flow_map.schedule.path_velocity(x0, x1, t))
        return Loss.of(self, self.weighting(residual, t, t).mean(), "diagonal", residual, t, t)
