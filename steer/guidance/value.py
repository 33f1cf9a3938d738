"""Guidance by the value: b + c_t grad V_t, the velocity of the tilted path.

With the exact V_t(x) = log E[exp(scale r(X_1)) | x_t = x], this is exactly the velocity of the
interpolant whose data law is p_1 exp(scale r), and its ODE and SDE sample that law without weights.
With any single guess in V's place (a map jump, a denoiser) it is biased; then use
TrajectoryTilting, which weighs.

References: Dhariwal & Nichol 2021, arXiv 2105.05233; Meta Flow Maps, 2026, arXiv 2601.14430.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.guidance.base import Guidance
from steer.interpolant import expand
from steer.tilt import check_finite, name_of, no_gradient
from steer.value import Query, Value

__all__ = ["ValueGuidance"]


class ValueGuidance(Guidance):
    """c_t grad V_t(x).

    At t = 0, c_t is infinite and grad V_t zero; the product is taken at t = .001 instead
    (`Schedule.inside`).

    Args:
        value: the tilt and the look-ahead to ask.
    """

    def __init__(self, value: Value):
        if value.tilt.scale.ndim:
            raise ValueError(
                "a guidance sees samples, not prompts: give its tilt one scale, and scales of single prompts to the"
                " sampler's tilt"
            )
        if not value.tilt.differentiable:
            raise ValueError(no_gradient(value.tilt.reward, "BestOfN"))
        self.value = value

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b *shape"]:
        t = flow_map.schedule.inside(t)
        watched = torch.is_grad_enabled() and (x.requires_grad or t.requires_grad)
        query = Query(flow_map, x, t, cond, generator)
        if watched or len(self.value.lookahead.pieces()) == 1:
            gradient = self.gradient(query, watched)
        else:
            found = self.value.look(query, gradient=True, instead="BestOfN").gradient
            assert found is not None
            gradient = found
        return expand(flow_map.schedule.c_t(t), x) * gradient

    @torch.enable_grad()
    def gradient(self, query: Query, watched: bool) -> Float[Tensor, "b *shape"]:
        """Evaluates grad V_t at once; differentiable in x and t itself if `watched`."""
        follows = watched and query.x.requires_grad
        x = query.x if follows else query.x.detach().requires_grad_()
        v = self.value(*query._replace(x=x))
        if not v.requires_grad:
            raise ValueError(no_gradient(self.value.tilt.reward, "BestOfN"))
        (gradient,) = torch.autograd.grad(v.sum(), x, create_graph=watched)
        check_finite(gradient, f"the gradient of {name_of(self.value.tilt.reward)}", query.t)
        return gradient
