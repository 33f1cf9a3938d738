"""Flow maps X_{s,t}, the solution operators of the probability flow dx/dt = b_t(x).

A map has a `forward`, X_{s,t} itself, a `velocity`, its tangent b_t = d_t X_{s,t} at s = t, and a
`schedule`, the path it was learned on. The rest follows: `lookahead` is the jump to data, `denoise`
and `score` are conversions of the velocity.

Reference: Boffi, Albergo & Vanden-Eijnden 2024, arXiv 2406.07507; 2025, arXiv 2505.18825.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer import counting
from steer.conditions import Cond
from steer.construction import call_of, remembered
from steer.interpolant import Endpoints, Schedule, Time, batch_time, expand
from steer.solvers import Rk4, Solver


class FlowMap(nn.Module, ABC):
    """A flow map X_{s,t} with its velocity and schedule.

    x is (B, *shape); s and t are numbers or have shape (B,). Two attributes decide which samplers
    are exact with a map, `jumps_follow_velocity` and `score_matches_flow`; for a learned map they
    hold up to its training error.

    Attributes:
        schedule: the path it was learned on.
        jumps_follow_velocity: whether X_{s,t} is the flow of its own velocity for any s and t: true
            of closed forms and of networks trained as flow maps, false of jumps by a few solver
            steps, whose error does not vanish with the steps of a sampler.
        guidance: the weight of the classifier-free guidance that is part of it, 1 for none; it must
            not be applied a second time.
        score_matches_flow: whether `score`, a conversion of the velocity, is that of the flow's own
            marginals: true of the velocity of an interpolant, false once guidance is added to it,
            where noise then changes the distribution.
    """

    schedule: Schedule
    jumps_follow_velocity: bool = False
    guidance: float = 1.0

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        remembered(cls)

    def __repr__(self) -> str:
        return call_of(self)

    @property
    def score_matches_flow(self) -> bool:
        return self.guidance == 1.0

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute X_{s,t}(x): transport x from time s to time t."""

    @abstractmethod
    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute b_t(x), the tangent of the map."""

    def from_noise(
        self, x0: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute the sample at time 0 that noise becomes: the noise itself.

        A map tuned in noise space (`steer.maps.NoiseTilted`) moves it. Samplers start here.
        """
        return x0

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute u_{s,t}(x) = (X_{s,t}(x) - x) / (t - s), which is the velocity at s = t."""
        s, t = batch_time(s, x), batch_time(t, x)
        gap = t - s
        u = (self(x, s, t, cond) - x) / expand(torch.where(gap == 0, 1.0, gap), x)
        return (
            torch.where(expand(gap, x) == 0, self.velocity(x, t, cond), u)
            if (gap == 0).any()
            else u
        )

    def lookahead(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute X_{t,1}(x), the jump to data."""
        return self(x, t, 1.0, cond)

    def endpoints(self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None) -> Endpoints:
        """Compute E[x1 | x_t = x] and E[x0 | x_t = x], at the cost of one velocity."""
        return self.schedule.from_velocity(self.velocity(x, t, cond), x, t)

    def denoise(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute the posterior mean E[x1 | x_t = x]."""
        return self.endpoints(x, t, cond).clean

    def score(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute grad log p_t(x). Raises ValueError at t = 1, where it may not exist."""
        return self.schedule.score(self.endpoints(x, t, cond), x, t)


class ResidualMap(FlowMap):
    """A flow map by its average velocity, X_{s,t}(x) = x + (t - s) u_{s,t}(x), with a network u.

    X_{t,t} is the identity by construction, and b_t = u_{t,t}.

    Args:
        network: network(x, s, t, cond) -> (B, *shape), with s and t of shape (B,): the average
            velocity.
        schedule: the path the network learns.
        guidance: the weight of the classifier-free guidance distilled into it, 1 for none.
        interpolates: whether its velocity is the mean of I_t' given I_t for its own samples, as
            flow matching makes it; false of a map tuned by a change of velocity or jumps alone.
    """

    jumps_follow_velocity = True

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        guidance: float = 1.0,
        interpolates: bool = True,
    ):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.guidance = guidance
        self.interpolates = interpolates

    @property
    def score_matches_flow(self) -> bool:
        return self.interpolates and self.guidance == 1.0

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return counting.network(self.network(x, batch_time(s, x), batch_time(t, x), cond))

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        u = self.average_velocity(x, s, t, cond)
        return x + expand(batch_time(t, x) - batch_time(s, x), x) * u

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.average_velocity(x, t, t, cond)


class OdeMap(FlowMap):
    """X_{s,t} by integrating a velocity numerically: what a flow map replaces.

    Exact in the limit of many steps, with the solver's order; at a given number its jumps have the
    solver's error, so that no look-ahead assumes that they follow the velocity. A jump costs
    `steps` times the solver's stages.

    Args:
        velocity: a FlowMap, whose velocity is integrated, or any callable (x, t, cond) -> (B,
            *shape) with t (B,), which is taken to be the velocity of an interpolant without
            guidance (`score_matches_flow`).
        schedule: the path of that velocity.
        steps: the number of steps for any interval, so that the cost of a jump is fixed.
        solver: Euler(), Heun() or Rk4().
    """

    def __init__(
        self,
        velocity: FlowMap | Callable[[Tensor, Tensor, Cond], Tensor],
        schedule: Schedule,
        steps: int,
        solver: Solver | None = None,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"OdeMap needs at least one step; got steps={steps}")
        self.field = velocity
        self.schedule = schedule
        self.steps = steps
        self.solver = solver or Rk4()
        self.guidance = velocity.guidance if isinstance(velocity, FlowMap) else 1.0

    @property
    def score_matches_flow(self) -> bool:
        return self.field.score_matches_flow if isinstance(self.field, FlowMap) else True

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        h = (t - s) / self.steps
        for k in range(self.steps):
            x = self.solver.step(lambda x, t: self.velocity(x, t, cond), x, s + k * h, h)
        return x

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        if isinstance(self.field, FlowMap):
            return self.field.velocity(x, t, cond)
        return counting.network(self.field(x, batch_time(t, x), cond))
