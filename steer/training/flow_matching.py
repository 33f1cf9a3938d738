"""Flow matching: the tangent of the map, learned from data.

    L_diag = E |u_{t,t}(I_t) - I_t'|^2,     I_t = alpha_t x1 + sigma_t x0,

minimised by u_{t,t} = b_t = E[I_t' | I_t]. Cost: one forward, one backward.

References: Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003; Albergo & Vanden-Eijnden 2023,
arXiv 2209.15571.
"""

import torch
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss, Objective, TimeLaw, Uniform, mean_square


class FlowMatching(Objective):
    """Regression of the velocity on I_t' at independent times.

    Args:
        times: law of t; uniform by default.
    """

    def __init__(self, times: TimeLaw | None = None):
        self.times = times or Uniform()

    def __call__(
        self, flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond, generator: torch.Generator, step: int
    ) -> Loss:
        t = self.times.sample(len(x1), generator)
        x_t = flow_map.schedule.interpolate(x0, x1, t)
        v = flow_map.velocity(x_t, t, cond)
        loss = mean_square(v - flow_map.schedule.path_velocity(x0, x1, t)).mean()
        return Loss(loss, {"diagonal": loss.detach()})
