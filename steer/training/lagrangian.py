"""Lagrangian self-distillation (LSD): the map must move along its own velocity as its end time grows.

    L_off = E |d_t X_{s,t}(I_s) - sg b_t(X_{s,t}(I_s))|^2,     b_t = u_{t,t}, the map's own diagonal,

with d_t X by forward mode and the gradient taken through it; the velocity at the landing point is held fixed. Zero
exactly at the flow map of the learned velocity. Cost per sample: one jvp, one forward, one backward through the jvp.

Reference: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825, which finds it the most stable of its three notions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.training.base import PairObjective, mean_square


class Lagrangian(PairObjective):
    """The squared Lagrangian residual at given pairs (s, t)."""

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
        landing, d_t = torch.func.jvp(lambda t: flow_map(x_s, s, t, cond), (t,), (torch.ones_like(t),))  # type: ignore[misc]
        with torch.no_grad():
            b = flow_map.velocity(landing, t, cond)
        return mean_square(d_t - b)
