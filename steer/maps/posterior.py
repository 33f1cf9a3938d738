"""Posterior maps: a flow map with an inner one that samples p(x1 | x_t) in a single jump.

The inner map is an ordinary flow map on the linear path from e ~ N(0, I) to y, the component of
(x1, x0) that x_t does not determine (`steer.lookahead.glass_flow`), conditional on Context(x_t, t,
schedule, cond). One jump is a draw,

    x1 = c x_t / h + s Y_{0,1}(e; x_t, t),

differentiable in x_t and t. `steer.training.Posterior` trains it with any objective for flow maps;
GlassFlow is the same map by integration, without training, and the teacher to distil it from.

References: Potaptchik et al. 2026, arXiv 2601.14430 (Meta Flow Maps); Holderrieth et al. 2026,
arXiv 2602.05993 (Diamond Maps).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import Endpoints, Linear, Time
from steer.lookahead import Guesses, log_uniform
from steer.lookahead.glass_flow import Context, posterior_draws

__all__ = ["PosteriorMap"]


class PosteriorMap(FlowMap):
    """A flow map that also samples its p(x1 | x_t), for the look-ahead `Posterior`.

    The draws are exact if the inner map is the flow map of y given x_t; a learned one has its
    training error.

    Args:
        flow_map: the outer map, which gives jumps, velocity, denoiser and score.
        inner: the inner map, such as a ResidualMap of `steer.networks.WithContext`, or a GlassFlow.

    Raises:
        ValueError: an inner map on another path than Linear().
    """

    def __init__(self, flow_map: FlowMap, inner: FlowMap):
        super().__init__()
        if inner.schedule != Linear():
            raise ValueError(
                f"the inner map of a PosteriorMap is on the path Linear(); got {inner.schedule}"
            )
        self.flow_map = flow_map
        self.inner = inner
        self.schedule = flow_map.schedule
        self.jumps_follow_velocity = flow_map.jumps_follow_velocity
        self.guidance = flow_map.guidance

    @property
    def score_matches_flow(self) -> bool:
        return self.flow_map.score_matches_flow

    def posterior_guesses(
        self, x: Tensor, t: Time, draws: int, generator: torch.Generator | None, cond: Cond = None
    ) -> Guesses:
        """Draw independent samples of equal weight, in one batch, one inner evaluation each."""
        context = Context(x, t, self.schedule, cond)
        x1 = posterior_draws(self.inner, context, draws, generator)
        return Guesses(x1, log_uniform(x1))

    # --- of the outer map -----------------------------------------------------------------------
    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.from_noise(x0, cond)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map(x, s, t, cond)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.velocity(x, t, cond)

    def lookahead(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.lookahead(x, t, cond)

    def endpoints(self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None) -> Endpoints:
        return self.flow_map.endpoints(x, t, cond)

    def denoise(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.denoise(x, t, cond)

    def score(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.flow_map.score(x, t, cond)
