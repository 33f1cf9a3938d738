"""Flow maps: X_{s,t} takes x_s to where the probability flow dx/dt = b_t(x) puts it at time t.

A map knows three things about itself: where a point lands (`forward`), which way it is heading
(`velocity`, the tangent
b_t = d_t X_{s,t} at s = t), and on which path it was learned (`schedule`). Everything else follows:
`lookahead` is the jump to data, `denoise` and `score` are conversions of the velocity.

Reference: Boffi, Albergo & Vanden-Eijnden 2024, arXiv 2406.07507; 2025, arXiv 2505.18825.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer import counting
from steer.conditions import Cond as Cond
from steer.conditions import for_particles as for_particles
from steer.conditions import pick as pick
from steer.interpolant import Endpoints, Schedule, Time, batch_time, expand
from steer.solvers import Rk4, Solver


class FlowMap(nn.Module, ABC):
    """X_{s,t} with its velocity and schedule. x is (B, *shape); s and t are numbers or have shape
    (B,).

    Two properties decide what may be claimed with a map; both are those of the class, and hold for
    a learned map up to its error of training.

    Attributes:
        schedule: the path it was learned on.
        jumps_follow_velocity: whether X_{s,t} is the flow of its own velocity at any length of
            jump: closed forms, and networks that were trained to it. Jumps by a few solver steps
            are not: their error does not vanish with a sampler's steps.
        guidance: the weight of classifier-free guidance in it, 1 for none: not to be applied a
            second time.
        score_matches_flow: whether `score`, a conversion of the velocity, is that of the flow's own
            marginals. So it is for the velocity of an interpolant, and not for one to which
            guidance was added: noise then changes the law.
    """

    schedule: Schedule
    jumps_follow_velocity: bool = False
    guidance: float = 1.0

    @property
    def score_matches_flow(self) -> bool:
        return self.guidance == 1.0

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """X_{s,t}(x): where x, at time s, will be at time t."""

    @abstractmethod
    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """b_t(x), the tangent of the map."""

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """u_{s,t}(x) = (X_{s,t}(x) - x) / (t - s), continued by the velocity at s = t."""
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
        """X_{t,1}(x): where x will land."""
        return self(x, t, 1.0, cond)

    def endpoints(self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None) -> Endpoints:
        """E[x1 | x_t = x] and E[x0 | x_t = x], at the cost of one velocity."""
        return self.schedule.from_velocity(self.velocity(x, t, cond), x, t)

    def denoise(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """The posterior mean E[x1 | x_t = x]."""
        return self.endpoints(x, t, cond).clean

    def score(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """grad log p_t(x). Raises ValueError at t = 1, where it may not exist."""
        return self.schedule.score(self.endpoints(x, t, cond), x, t)


class ResidualMap(FlowMap):
    """X_{s,t}(x) = x + (t - s) u_{s,t}(x), with u a network: X_{t,t} is the identity by
    construction and b_t = u_{t,t}.

    Args:
        network: network(x, s, t, cond) -> (B, *shape), with s and t of shape (B,): the average
            velocity.
        schedule: the path the network learns.
        guidance: the weight of classifier-free guidance that was distilled into it, if any.
    """

    jumps_follow_velocity = True

    def __init__(self, network: nn.Module, schedule: Schedule, guidance: float = 1.0):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.guidance = guidance

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
    """X_{s,t} by integrating a velocity in small steps: what a flow map replaces, and the yardstick
    it is held to.

    Exact in the limit of its own steps, with the solver's order; at a given number its jumps are
    off by the solver's error, so no look-ahead assumes that they follow the velocity. A jump costs
    `steps` times the solver's stages.

    Args:
        velocity: a FlowMap, whose own velocity is followed, or any callable (x, t, cond) -> (B,
            *shape) with t (B,); a callable is taken for the velocity of an interpolant, without
            guidance in it (`score_matches_flow`).
        schedule: the path of that velocity.
        steps: steps for any interval, long or short, so that the cost of a jump is fixed.
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
