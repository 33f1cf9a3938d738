"""GLASS: draws from p(x1 | x_t) by a flow inside the flow, out of any velocity, with nothing to
train.

With h = sqrt(alpha^2 + sigma^2), c = alpha / h and s = sigma / h, what x_t shows and what it hides
are one rotation:

    x_t / h = c x1 + s x0,        y = s x1 - c x0,        x1 = c x_t / h + s y,

so a draw of y given x_t is a draw of x1, and the flow to look for leads from e ~ N(0, I) to y along
the straight path y_u = u y + (1 - u) e. Each of x_t and y_u is a Gaussian reading of x1, and both
together are one, of weights p and q:

    rho = sqrt(c^2 (1-u)^2 + u^2),      p = c (1-u) / rho,      q = u / rho,
    x* = k (p (1-u) x_t / h + q (s y_u + u c x_t / h)) / sqrt(u^2 + (1-u)^2),      alpha* : sigma* = rho : s (1-u),

a point of the outer path at time t* (k = sqrt(alpha*^2 + sigma*^2)), about which the outer model
knows D = E[x1 | x*] and n = E[p x0 + q e | x*]. The other half of the two noises, w = q x0 - p e =
(u s x_t / h - c y_u) / rho, is known. So

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
    """The rotation that takes (x1, x0) to (x_t / h, y)."""
    alpha, sigma, _, _ = schedule.coefficients(t)
    h = torch.sqrt(alpha**2 + sigma**2)
    return Turn(alpha / h, sigma / h, h)


class Statistic(NamedTuple):
    """All that (x_t, y_u) say of x1.

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
    """The noisy samples a flow is conditional on; passed as its `cond`, and cut by rows like any
    condition.

    Args:
        x_t: (B, *shape).
        t: their time, or times (B,).
        schedule: their path.
        cond: the outer model's own condition, one entry per sample, or None.
    """

    def __init__(
        self, x_t: Float[Tensor, "b *shape"], t: Time, schedule: Schedule, cond: Cond = None
    ):
        self.x_t, self.t, self.schedule, self.cond = x_t, batch_time(t, x_t), schedule, cond

    @classmethod
    def of(cls, cond: Cond) -> "Context":
        """cond itself. Raises ValueError if it is anything else."""
        if not isinstance(cond, Context):
            got = "none" if cond is None else type(cond).__name__
            raise ValueError(
                f"a posterior flow is told cond=Context(x_t, t, schedule); got {got}: ask its PosteriorMap"
            )
        return cond

    def __len__(self) -> int:
        return len(self.x_t)

    def __getitem__(self, rows: slice | Tensor) -> "Context":
        return Context(
            self.x_t[rows],
            self.t[rows],
            self.schedule,
            None if self.cond is None else self.cond[rows],
        )

    def repeat(self, times: int) -> "Context":
        """The whole batch, `times` times over."""
        cond = self.cond
        if isinstance(cond, Tensor):
            cond = cond.repeat(times, *(1 for _ in cond.shape[1:]))
        elif cond is not None:
            cond = cond * times
        x_t = self.x_t.repeat(times, *(1 for _ in self.x_t.shape[1:]))
        return Context(x_t, self.t.repeat(times), self.schedule, cond)

    def hidden(self, x0: Tensor, x1: Tensor) -> Tensor:
        """y = s x1 - c x0, for the pair that x_t was made of."""
        c, s, _ = (expand(a, x1) for a in turn(self.schedule, self.t))
        return s * x1 - c * x0

    def shown(self) -> Tensor:
        """c x_t / h, what x_t shows of x1: its mean for normal data of variance 1."""
        c, _, h = turn(self.schedule, self.t)
        return expand(c / h, self.x_t) * self.x_t

    def clean(self, y: Tensor) -> Tensor:
        """x1 = c x_t / h + s y; at t = 1 it is x_t, whatever y."""
        return self.shown() + expand(turn(self.schedule, self.t).sin, y) * y

    def statistic(self, y: Float[Tensor, "b *shape"], u: Time) -> Statistic:
        """x*, t* and w. At t = u = 0, where neither says anything, y_u is taken for x*."""
        u = batch_time(u, y)
        c, s, h = turn(self.schedule, self.t)
        rho, nothing = _rho(c, u)
        safe = torch.where(nothing, 1.0, rho)
        p, q = c * (1 - u) / safe, torch.where(nothing, 1.0, u / safe)
        t = self.schedule.time_at(rho, s * (1 - u))
        scale = turn(self.schedule, t).h / torch.sqrt(u**2 + (1 - u) ** 2)
        of_x, of_y = scale * (p * (1 - u) + q * u * c) / h, scale * q * s
        shown, w_of_x, w_of_y = expand(of_x, y), expand(u * s / (h * safe), y), expand(c / safe, y)
        x, w = shown * self.x_t + expand(of_y, y) * y, w_of_x * self.x_t - w_of_y * y
        return Statistic(x, t, w, expand(s, y), expand(c * p + q, y), expand(p - c * q, y))


def _rho(c: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(c^2 (1-u)^2 + u^2), and where it is zero, with no slope there."""
    square = c**2 * (1 - u) ** 2 + u**2
    nothing = square == 0
    return torch.where(nothing, 0.0, torch.sqrt(torch.where(nothing, 1.0, square))), nothing


class GlassFlow(FlowMap):
    """The flow from noise e to y given x_t, out of the velocity of any flow map; a FlowMap on the
    straight path.

    Its velocity is exact if the outer one is; its jumps integrate it, exact in the limit of steps.
    cond is a Context.

    Args:
        flow_map: the outer model, of which only the velocity is asked, once per velocity here.
        steps, solver: how a jump is integrated; 4 steps of Heun() by default, eight evaluations.
    """

    def __init__(self, flow_map: FlowMap, steps: int = 4, solver: Solver | None = None):
        super().__init__()
        if steps < 1:
            raise ValueError(f"GlassFlow needs at least one step; got steps={steps}")
        self.flow_map, self.schedule, self.steps, self.solver = (
            flow_map,
            Linear(),
            steps,
            solver or Heun(),
        )
        self.guidance = flow_map.guidance

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        context, path = Context.of(cond), self.flow_map.schedule
        if context.schedule != path:
            raise ValueError(
                f"the context is on the path {context.schedule}, the flow map on {path}; make them one"
            )
        z = context.statistic(x, t)
        return z.velocity(
            path.from_velocity(self.flow_map.velocity(z.x, z.t, context.cond), z.x, z.t)
        )

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return OdeMap(self, self.schedule, self.steps, self.solver)(x, s, t, cond)


def posterior_draws(
    inner: FlowMap, context: Context, draws: int, generator: torch.Generator | None
) -> Float[Tensor, "k b *shape"]:
    """c x_t / h + s Y_{0,1}(e) for `draws` noises e of each sample, all in one batch;
    differentiable in x_t and t.
    """
    x, many = context.x_t, context.repeat(draws)
    e = torch.randn(draws, *x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return many.clean(inner(e.flatten(0, 1), 0.0, 1.0, many)).unflatten(0, (draws, len(x)))
