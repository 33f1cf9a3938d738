"""Value guidance, b + c_t grad V_t, the velocity of the tilted path.

With the exact V_t(x) = log E[exp(scale r(X_1)) | x_t = x], it is the velocity of the interpolant
whose data law is p_1 exp(scale r), and its ODE and SDE sample that law without weights. With a
point estimate in place of V (a map jump, a denoiser) it is biased; TrajectoryTilting corrects this
by importance weights.

References: Dhariwal & Nichol 2021, arXiv 2105.05233; Meta Flow Maps, 2026, arXiv 2601.14430.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.guidance.base import Guidance
from steer.interpolant import expand
from steer.tilt import check_gradient, no_gradient
from steer.value import Query, Value

__all__ = ["ValueGuidance"]


class ValueGuidance(Guidance):
    """The correction c_t grad V_t(x).

    At t = 0, c_t is infinite and grad V_t zero; the product is taken at t = .001 instead
    (`Schedule.inside`).

    Args:
        value: the tilt and the look-ahead.

    Raises:
        ValueError: a tilt with scales for single prompts, or a reward without a gradient.
    """

    def __init__(self, value: Value):
        if value.tilt.scale.ndim:
            raise ValueError(
                "a guidance does not know the prompts of samples: give its tilt one scale, "
                "and scales of single prompts to the sampler's tilt"
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
        # whether the caller differentiates through the guidance
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
        """Compute grad V_t in one piece; with `watched`, differentiable in x and t itself."""
        follows = watched and query.x.requires_grad
        x = query.x if follows else query.x.detach().requires_grad_()
        v = self.value(*query._replace(x=x))
        if not v.requires_grad:
            raise ValueError(no_gradient(self.value.tilt.reward, "BestOfN"))
        (gradient,) = torch.autograd.grad(v.sum(), x, create_graph=watched)
        check_gradient(self.value.tilt, gradient, query.t)
        return gradient
