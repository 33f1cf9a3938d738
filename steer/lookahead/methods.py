"""Look-ahead methods: deterministic predictions of the clean sample, and posterior draws.

Deterministic: Identity, Denoiser, MapJump, FlowMapDenoiser, ShortOde. Draws from p(x1 | x_t):
Posterior from a model that has them, Glass from any velocity, Renoise from any flow map.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap, OdeMap
from steer.interpolant import Time, batch_time, expand
from steer.lookahead.base import Guesses as Guesses
from steer.lookahead.base import Lookahead as Lookahead
from steer.lookahead.base import log_uniform as log_uniform
from steer.lookahead.base import one as one
from steer.lookahead.base import split as split
from steer.lookahead.glass_flow import Context, GlassFlow, posterior_draws
from steer.lookahead.renoise_weights import renoised
from steer.solvers import Heun, Solver

__all__ = [
    "Denoiser",
    "FlowMapDenoiser",
    "Glass",
    "Identity",
    "MapJump",
    "Posterior",
    "Renoise",
    "ShortOde",
]


class MapJump(Lookahead):
    """X_{t,1}(x): the end of the flow line through x, in one evaluation of a flow map.

    Sharp at every noise level, but one endpoint, not the posterior: exact inside weighted
    particles, biased as a bare drift (Sabour et al. 2025, arXiv 2511.22688).

    Args:
        assume_consistent: assume that the jumps follow the velocity where the map says so
            (`FlowMap.jumps_follow_velocity`). A learned map does up to its Eulerian residual; with
            False, and for maps that jump by a few solver steps, the residual is differentiated and
            weighted, at the cost of one more backward pass.
    """

    def __init__(self, assume_consistent: bool = True):
        self.assume_consistent = assume_consistent

    def follows(self, flow_map: FlowMap) -> bool:
        return self.assume_consistent and flow_map.jumps_follow_velocity

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        return one(flow_map.lookahead(x, t, cond))


class Denoiser(Lookahead):
    """E[x1 | x_t], the posterior mean, from one velocity; blurry at small t.

    As in DPS (Chung et al. 2023, arXiv 2209.14687).
    """

    shares_velocity = True

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        return one(flow_map.denoise(x, t, cond))

    def with_velocity(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Guesses, Float[Tensor, "b *shape"]]:
        v = flow_map.velocity(x, t, cond)  # one evaluation serves both
        return one(flow_map.schedule.from_velocity(v, x, t).clean), v.detach()


class FlowMapDenoiser(Lookahead):
    """Interpolation from the posterior mean to the map's jump, by extrapolating X_{t,r} to t = 1.

        z = (sigma_t X_{t,r}(x) - sigma_r x) / (alpha_r sigma_t - alpha_t sigma_r),
        r = t + reach (1 - t),

    on the straight path x + (1 - t) u_{t,r}(x). Reach 0 is Denoiser(), of least squared error;
    reach 1 is MapJump(), of the data's law; in between a trade-off between error and law, optimal
    for isotropic normal data. One evaluation. (Flow Map Denoisers 2026, arXiv 2606.19802, on the
    straight path; the formula for other paths is ours.)

    Args:
        reach: in [0, 1].
    """

    def __init__(self, reach: float = 0.5):
        if not 0 <= reach <= 1:
            raise ValueError(
                "FlowMapDenoiser needs a reach in [0, 1], from the mean to the jump;"
                f" got reach={reach}"
            )
        self.reach = reach

    @property
    def shares_velocity(self) -> bool:  # type: ignore[override]
        return self.reach == 0

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        if self.reach == 0:
            return self.with_velocity(flow_map, x, t, cond, generator)[0]
        t = batch_time(t, x)
        r = t + self.reach * (1 - t)
        return self.on_the_line(flow_map, x, t, r, flow_map.average_velocity(x, t, r, cond))

    def with_velocity(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Guesses, Float[Tensor, "b *shape"]]:
        if self.reach > 0:
            return super().with_velocity(flow_map, x, t, cond, generator)
        t = batch_time(t, x)
        v = flow_map.velocity(x, t, cond)  # one evaluation serves both
        return self.on_the_line(flow_map, x, t, t, v), v.detach()

    def on_the_line(self, flow_map: FlowMap, x: Tensor, t: Tensor, r: Tensor, u: Tensor) -> Guesses:
        """Computes the clean end of the line through x at t and x + (r - t) u at r."""
        alpha_t, sigma_t, d_alpha, d_sigma = flow_map.schedule.coefficients(t)
        alpha_r, sigma_r, _, _ = flow_map.schedule.coefficients(r)
        gap = torch.where(r > t, r - t, 1.0)
        of_x = torch.where(r > t, (sigma_t - sigma_r) / gap, -d_sigma)
        chord = (alpha_r * sigma_t - alpha_t * sigma_r) / gap
        scale = torch.where(r > t, chord, d_alpha * sigma_t - alpha_t * d_sigma)
        return one((expand(of_x, x) * x + expand(sigma_t, x) * u) / expand(scale, x))


class Identity(Lookahead):
    """x itself: no look-ahead, no evaluation."""

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        return one(x)


class ShortOde(Lookahead):
    """X_{t,1}(x) by a few steps of an ODE solver: what MapJump costs without a flow map.

    Args:
        steps: solver steps from t to 1.
        solver: Heun() by default.
    """

    shares_velocity = True

    def __init__(self, steps: int = 4, solver: Solver | None = None):
        if steps < 1:
            raise ValueError(f"ShortOde needs at least one step; got steps={steps}")
        self.steps = steps
        self.solver = solver or Heun()

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        return self.with_velocity(flow_map, x, t, cond, generator)[0]

    def with_velocity(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Guesses, Float[Tensor, "b *shape"]]:
        t = batch_time(t, x)
        v = flow_map.velocity(x, t, cond)  # the first stage of the solver too
        return one(Begun(flow_map, self, x, t, v).lookahead(x, t, cond)), v.detach()


class Begun(OdeMap):
    """The integration of ShortOde from x at t, where the velocity v is known already."""

    def __init__(self, flow_map: FlowMap, short: ShortOde, x: Tensor, t: Tensor, v: Tensor):
        super().__init__(flow_map, flow_map.schedule, short.steps, short.solver)
        self.x = x
        self.t = t
        self.v = v

    def velocity(self, x: Tensor, t: Time, cond: Cond = None) -> Tensor:
        if x is self.x and torch.equal(batch_time(t, x), self.t):
            return self.v
        return super().velocity(x, t, cond)


@runtime_checkable
class PosteriorModel(Protocol):
    """A flow map that can also draw from its own p(x1 | x_t)."""

    def posterior_guesses(
        self, x: Tensor, t: Time, draws: int, generator: torch.Generator | None, cond: Cond = None
    ) -> Guesses:
        """Weighted draws whose values and weights are differentiable in x."""


class Posterior(Lookahead):
    """Draws from p(x1 | x_t) by the model itself; the value is consistent as draws grow.

    Args:
        draws: how many, K.
        at_once: most draws in memory at a time; None for all.
    """

    random = True

    def __init__(self, draws: int = 16, at_once: int | None = None):
        if draws < 1 or (at_once is not None and at_once < 1):
            raise ValueError(
                f"Posterior needs at least one draw; got draws={draws}, at_once={at_once}"
            )
        self.draws = draws
        self.at_once = at_once

    def pieces(self) -> list[tuple[Lookahead, float]]:
        return [(Posterior(n), n / self.draws) for n in split(self.draws, self.at_once)]

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        if not isinstance(flow_map, PosteriorModel):
            raise ValueError(
                f"{type(flow_map).__name__} cannot draw from p(x1 | x_t) by itself; use Glass(),"
                " which draws through its velocity, or MapJump() or Denoiser(), which need no draws"
            )
        return flow_map.posterior_guesses(x, t, self.draws, generator, cond)


class Glass(Lookahead):
    """Draws from p(x1 | x_t) through the velocity of any flow map.

    See `steer.lookahead.glass_flow`. Exact in the limit of inner steps, so the value is consistent
    as draws and steps grow. One draw costs steps * stages evaluations. (Holderrieth et al. 2025,
    arXiv 2509.25170.)

    Args:
        draws: how many, K.
        steps, solver: of the inner integration; Heun() by default.
        at_once: most draws in memory at a time; None for all.
    """

    random = True

    def __init__(
        self,
        draws: int = 16,
        steps: int = 4,
        solver: Solver | None = None,
        at_once: int | None = None,
    ):
        if draws < 1 or steps < 1 or (at_once is not None and at_once < 1):
            raise ValueError(
                "Glass needs at least one draw and one step;"
                f" got draws={draws}, steps={steps}, at_once={at_once}"
            )
        self.draws = draws
        self.steps = steps
        self.solver = solver or Heun()
        self.at_once = at_once

    def pieces(self) -> list[tuple[Lookahead, float]]:
        parts = split(self.draws, self.at_once)
        return [(Glass(n, self.steps, self.solver), n / self.draws) for n in parts]

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        context = Context(x, t, flow_map.schedule, cond)
        inner = GlassFlow(flow_map, self.steps, self.solver)
        x1 = posterior_draws(inner, context, self.draws, generator)
        return Guesses(x1, log_uniform(x1))


class Renoise(Lookahead):
    """Jumps from points noisier than x_t, importance-weighted to p(x1 | x_t).

    See `steer.lookahead.renoise_weights`. Exact in the limit of draws and nodes for a map whose
    jumps follow its velocity, biased for any other. At finite draws the self-normalised weights
    are biased, and their variance grows with the dimension. One draw costs 1 + nodes evaluations.
    The weights need all draws, so they are held in memory together. (Weighted Diamond Maps:
    Holderrieth et al. 2026, arXiv 2602.05993.)

    Args:
        draws: how many, K.
        nodes: velocities per draw for the density ratio of its weight; one is exact for standard
            normal data.
    """

    random = True

    def __init__(self, draws: int = 16, nodes: int = 2):
        if draws < 1 or nodes < 1:
            raise ValueError(
                f"Renoise needs at least one draw and one node; got draws={draws}, nodes={nodes}"
            )
        self.draws = draws
        self.nodes = nodes

    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        context = Context(x, t, flow_map.schedule, cond)
        return Guesses(*renoised(flow_map, context, self.draws, self.nodes, generator))
