"""The Eulerian notion in its MeanFlow form: where a point lands does not change as it moves along the flow.

d_s X_{s,t} + grad X_{s,t} b_s = 0 reads, in the average velocity, u_{s,t} = b_s + (t - s)(d_s u + grad u . b_s).
MeanFlow puts the sample's own I_s' where b_s stands, in target and tangent alike, and holds the right side fixed:

    L_off = E |u_{s,t}(I_s) - sg[I_s' + (t - s) (d_s u + grad u . I_s')]|^2.

The bracket is linear in I_s', so its mean given I_s is the right side with b_s: the minimiser is the flow map. Cost per
sample: one jvp with its primal as the prediction, one backward.

Reference: Geng et al. 2025, arXiv 2505.13447.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.interpolant import expand
from steer.training.base import PairObjective, mean_square


class MeanFlow(PairObjective):
    """The squared MeanFlow residual at given pairs (s, t)."""

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        s: Tensor,
        t: Tensor,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "b"]:
        x_s = flow_map.schedule.interpolate(x0, x1, s)
        v = flow_map.schedule.path_velocity(x0, x1, s)
        primals, tangents = (x_s, s), (v, torch.ones_like(s))
        u, du = torch.func.jvp(lambda x, s: flow_map.average_velocity(x, s, t, cond), primals, tangents)  # type: ignore[misc]
        return mean_square(u - (v + expand(t - s, x_s) * du).detach())
