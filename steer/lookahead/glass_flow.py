"""GLASS: draws from p(x1 | x_t) by an inner flow, from the velocity of any flow map.

With h = sqrt(alpha^2 + sigma^2), c = alpha / h and s = sigma / h, x_t and what it does not
determine are a rotation of (x1, x0):

    x_t / h = c x1 + s x0,        y = s x1 - c x0,        x1 = c x_t / h + s y,

so a draw of y given x_t is a draw of x1, and the inner flow leads from e ~ N(0, I) to y along the
straight path y_u = u y + (1 - u) e. Each of x_t and y_u is a Gaussian observation of x1, and both
together are one, with weights p and q:

    rho = sqrt(c^2 (1-u)^2 + u^2),      p = c (1-u) / rho,      q = u / rho,
    x* = k (p (1-u) x_t / h + q (s y_u + u c x_t / h)) / sqrt(u^2 + (1-u)^2),
    alpha* : sigma* = rho : s (1-u),      k = sqrt(alpha*^2 + sigma*^2),

a point of the outer path at time t*, about which the outer model knows D = E[x1 | x*] and n = E[p
x0 + q e | x*]. The other half of the two noises, w = q x0 - p e = (u s x_t / h - c y_u) / rho, is
known. So

    E[y - e | x_t, y_u] = s D - (c p + q) n + (p - c q) w,

for one evaluation of the outer model, exactly, and with no division by what vanishes at t or u in
{0, 1}.

Change of variables in time and scale leaves the map from u = 0 to 1 as it is: c x_t / h + s
Y_{0,1}(e) is also the jump X_{0,1}(e) of the straight path from e to x1 given x_t. But y has unit
scale at every t, where x1 is known to within sigma.

Reference: Holderrieth et al. 2025, arXiv 2509.25170.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import pick, repeat
from steer.flow_map import Cond, FlowMap, OdeMap
from steer.interpolant import Endpoints, Linear, Schedule, Time, batch_time, expand
from steer.solvers import Heun, Solver

__all__ = ["GlassFlow"]


class Turn(NamedTuple):
    """cos = alpha / h and sin = sigma / h of the rotation, and h = sqrt(alpha^2 + sigma^2), each of
    the shape of t.
    """

    cos: Tensor
    sin: Tensor
    h: Tensor


def turn(schedule: Schedule, t: Float[Tensor, "b"]) -> Turn:
    """Computes the rotation that takes (x1, x0) to (x_t / h, y)."""
    alpha, sigma, _, _ = schedule.coefficients(t)
    h = torch.sqrt(alpha**2 + sigma**2)
    return Turn(alpha / h, sigma / h, h)


class Statistic(NamedTuple):
    """The sufficient statistic of (x_t, y_u) for x1.

    Attributes:
        x, t: the point x* and its time t* on the outer path.
        w: the half of the two noises that is known.
        clean, noise, rest: what D, -n and w are multiplied by in the velocity of y_u.
    """

    x: Tensor
    t: Tensor
    w: Tensor
    clean: Tensor
    noise: Tensor
    rest: Tensor

    def velocity(self, endpoints: Endpoints) -> Tensor:
        """E[y - e | x_t, y_u] from the outer model's endpoints at x*."""
        return self.clean * endpoints.clean - self.noise * endpoints.noise + self.rest * self.w


class Context:
    """The noisy samples that a posterior flow is conditional on; passed as its `cond`.

    Args:
        x_t: (B, *shape).
        t: their time, or times (B,).
        schedule: their path.
        cond: the outer model's own condition, one entry per sample, or None.
    """

    def __init__(
        self, x_t: Float[Tensor, "b *shape"], t: Time, schedule: Schedule, cond: Cond = None
    ):
        self.x_t = x_t
        self.t = batch_time(t, x_t)
        self.schedule = schedule
        self.cond = cond

    @classmethod
    def of(cls, cond: Cond) -> "Context":
        """cond itself. Raises ValueError if it is anything else."""
        if not isinstance(cond, Context):
            got = "none" if cond is None else type(cond).__name__
            raise ValueError(
                f"a posterior flow takes cond=Context(x_t, t, schedule); got {got}:"
                " call its PosteriorMap"
            )
        return cond

    def __len__(self) -> int:
        return len(self.x_t)

    def __getitem__(self, indices: slice | Tensor) -> "Context":
        return Context(self.x_t[indices], self.t[indices], self.schedule, pick(self.cond, indices))

    def repeat(self, times: int) -> "Context":
        """The whole batch, `times` times over."""
        x_t = self.x_t.repeat(times, *(1 for _ in self.x_t.shape[1:]))
        return Context(x_t, self.t.repeat(times), self.schedule, repeat(self.cond, times))

    def hidden(self, x0: Tensor, x1: Tensor) -> Tensor:
        """y = s x1 - c x0, for the pair that x_t was made of."""
        c, s, _ = (expand(a, x1) for a in turn(self.schedule, self.t))
        return s * x1 - c * x0

    def shown(self) -> Tensor:
        """c x_t / h, the posterior mean for standard normal data."""
        c, _, h = turn(self.schedule, self.t)
        return expand(c / h, self.x_t) * self.x_t

    def clean(self, y: Tensor) -> Tensor:
        """x1 = c x_t / h + s y; at t = 1 it is x_t, whatever y."""
        return self.shown() + expand(turn(self.schedule, self.t).sin, y) * y

    def statistic(self, y: Float[Tensor, "b *shape"], u: Time) -> Statistic:
        """Computes x*, t* and w. At t = u = 0, where x1 is unobserved, x* is y_u."""
        u = batch_time(u, y)
        c, s, h = turn(self.schedule, self.t)
        rho, nothing = _rho(c, u)
        safe = torch.where(nothing, 1.0, rho)
        p = c * (1 - u) / safe
        q = torch.where(nothing, 1.0, u / safe)
        t = self.schedule.time_at(rho, s * (1 - u))
        scale = turn(self.schedule, t).h / torch.sqrt(u**2 + (1 - u) ** 2)
        of_x = expand(scale * (p * (1 - u) + q * u * c) / h, y)
        of_y = expand(scale * q * s, y)
        x = of_x * self.x_t + of_y * y
        w = expand(u * s / (h * safe), y) * self.x_t - expand(c / safe, y) * y
        return Statistic(x, t, w, expand(s, y), expand(c * p + q, y), expand(p - c * q, y))


def _rho(c: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(c^2 (1-u)^2 + u^2), and where it is zero, with no slope there."""
    square = c**2 * (1 - u) ** 2 + u**2
    nothing = square == 0
    return torch.where(nothing, 0.0, torch.sqrt(torch.where(nothing, 1.0, square))), nothing


class GlassFlow(FlowMap):
    """The flow from noise e to y given x_t, on the straight path.

    Its velocity is exact if the outer one is; its jumps integrate it, exact in the limit of steps.
    cond is a Context.

    Args:
        flow_map: the outer model; one evaluation of its velocity for each velocity here.
        steps, solver: integration of a jump; 4 steps of Heun() by default, eight evaluations.
    """

    def __init__(self, flow_map: FlowMap, steps: int = 4, solver: Solver | None = None):
        super().__init__()
        if steps < 1:
            raise ValueError(f"GlassFlow needs at least one step; got steps={steps}")
        self.flow_map = flow_map
        self.schedule = Linear()
        self.steps = steps
        self.solver = solver or Heun()
        self.guidance = flow_map.guidance

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        context = Context.of(cond)
        path = self.flow_map.schedule
        if context.schedule != path:
            raise ValueError(
                f"the context is on the path {context.schedule}, the flow map on {path};"
                " give both the same"
            )
        z = context.statistic(x, t)
        velocity = self.flow_map.velocity(z.x, z.t, context.cond)
        return z.velocity(path.from_velocity(velocity, z.x, z.t))

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return OdeMap(self, self.schedule, self.steps, self.solver)(x, s, t, cond)


def posterior_draws(
    inner: FlowMap, context: Context, draws: int, generator: torch.Generator | None
) -> Float[Tensor, "k b *shape"]:
    """Draws c x_t / h + s Y_{0,1}(e) for `draws` noises e of each sample, in one batch.

    Differentiable in x_t and t.
    """
    x = context.x_t
    many = context.repeat(draws)
    e = torch.randn(draws, *x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return many.clean(inner(e.flatten(0, 1), 0.0, 1.0, many)).unflatten(0, (draws, len(x)))
