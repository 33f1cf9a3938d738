"""Adjoint Matching: stochastic optimal control of the memoryless chain, by regression.

From x_0 ~ N(0, I), with D and n the endpoints E[x1 | x_s] and E[x0 | x_s] of the current velocity,

    x_t = m + d e,      m = alpha_t D + b n,

is the ancestral chain of `Schedule.ancestral`: memoryless at every step, so that its optimal
control leads to p_1 exp(scale r) / Z, whose flow then has that velocity too. The lean adjoint goes
back along the same states through the frozen base,

    a_1 = -grad (scale r)(x_1),      a_s = (d m_base / dx_s)^T a_t,

and the velocity is regressed on the control it stands for,

    L = E sum_s (dm/du / d)^2 |u_{s,s} - sg[b_base - c_s a_s]|^2,

with c_s half the squared noise of the memoryless SDE (where it is infinite, at s = 0, what one step
asks for, d^2 a_t / (dm/du)). The last step, which adds no noise, has no loss. Exact as the steps
become small; the error falls with their number, and is half that of d^2 a_t / (dm/du) at all s.

Reference: Domingo-Enrich et al. 2024, arXiv 2409.08861. There, an Euler step whose noise is
infinite at t = 0 and is cut; the ancestral step is finite and needs no cut.
"""

from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, Count
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import Endpoints, Schedule
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import VelocityTuning
from steer.tuning.objective import TuningClaim, in_parts, require_gradient, reward_gradient

__all__ = ["AdjointMatching", "Controlled"]


class Controlled(NamedTuple):
    """States of memoryless trajectories with the velocity that their adjoints ask for.

    Attributes:
        z, tilt, cond: where the trajectories end (B), as in Clean.
        x, t: states (M B, *shape) and their times (M B,).
        target: velocities (M B, *shape).
        weight: of the squared residuals, (M B,).
        source: the trajectory of each, (M B,).
    """

    z: Tensor
    tilt: Tensor
    cond: Cond
    x: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor
    source: Tensor


class AdjointMatching(VelocityTuning[Controlled]):
    """Regression of the velocity on lean adjoints of its own memoryless trajectories; exact.

    A trajectory costs `steps` evaluations of the map, and as many forward and backward passes of
    the base. The jumps learn on the samples where trajectories end.

    Args:
        steps: N of the chain.
        states: steps of a trajectory that are regressed on, drawn anew for every batch; all N - 1
            if None.
        at_once: states in memory at once, each for one more forward pass; all if None.
        more: off_diagonal, pairs, off_weight and reuse, as in VelocityTuning.

    Raises:
        ValueError: when called, a reward without a gradient.
        NonFiniteReward: when called, naming the sample.
    """

    claim: TuningClaim = "exact"
    needs_gradient = True
    record = Controlled

    def __init__(
        self,
        steps: Annotated[int, AtLeast(2)] = 40,
        *,
        states: Count | None = 10,
        at_once: Count | None = None,
        **more: Any,
    ):
        super().__init__(**more)
        self.steps = steps
        self.states = states
        self.at_once = at_once

    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Controlled:
        require_gradient(tilt)
        times = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64).tolist()
        x = x0
        states = []
        for s, t in pairwise(times):
            states.append(x)
            x, spread = mean_and_spread(flow_map, x, s, t, cond)
            if t < 1:
                x = x + spread * torch.randn(x.shape, generator=generator, device=x.device).to(x)
        value, slope_at_end = reward_gradient(tilt, x, cond)
        adjoint = -slope_at_end
        chosen = self.chosen(generator)
        kept = []
        for k in reversed(range(self.steps)):
            s, t = times[k], times[k + 1]
            velocity, back = through_base(base, states[k], s, t, cond, adjoint)
            if k in chosen:
                slope, spread = gain(base.schedule, s, t)
                change = spread**2 / slope * adjoint if s == 0 else control(base, s) * back
                time = torch.full((len(x),), s, dtype=torch.float64, device=x.device)
                weight = torch.full_like(time, (slope / spread) ** 2)
                kept.append((states[k], time, velocity - change, weight))
            adjoint = back
        x_s, t_s, target, weight = (torch.cat(part) for part in zip(*kept, strict=True))
        source = torch.arange(len(x), device=x.device).repeat(len(kept))
        return Controlled(x, value, cond, x_s, t_s, target, weight, source)

    def chosen(self, generator: torch.Generator) -> set[int]:
        """Draws the numbers of the steps to regress on; the last, without noise, is none."""
        order = torch.randperm(self.steps - 1, generator=generator, device=generator.device)
        return set(order[: self.states].tolist())

    def diagonal(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Controlled,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "m"], dict[str, Tensor]]:
        def part(of: slice) -> Tensor:
            cond = pick(kept.cond, kept.source[of])
            u = flow_map.velocity(kept.x[of], kept.t[of], cond)
            return kept.weight[of] * mean_square(u - kept.target[of])

        return in_parts(part, len(kept.x), self.at_once), {}


def gain(schedule: Schedule, s: float, t: float) -> tuple[float, float]:
    """Computes dm / du and d of a memoryless step."""
    of_clean, of_noise, spread = schedule.ancestral(s, t)
    one = torch.ones(1, dtype=torch.float64)
    ends = schedule.from_velocity(one, torch.zeros_like(one), s)
    return float(of_clean * ends.clean + of_noise * ends.noise), float(spread)


def control(base: FlowMap, s: float) -> float:
    """Computes c_s."""
    return float(base.schedule.c_t(s))


def mean(schedule: Schedule, ends: Endpoints, s: float, t: float) -> Float[Tensor, "b *shape"]:
    """Computes m from the endpoints at s."""
    of_clean, of_noise, _ = (float(c) for c in schedule.ancestral(s, t))
    return of_clean * ends.clean + of_noise * ends.noise


def mean_and_spread(
    flow_map: FlowMap, x: Float[Tensor, "b *shape"], s: float, t: float, cond: Cond
) -> tuple[Float[Tensor, "b *shape"], float]:
    """Computes m and d of a step of the map's own chain."""
    ends = flow_map.endpoints(x, s, cond)
    return mean(flow_map.schedule, ends, s, t), gain(flow_map.schedule, s, t)[1]


@torch.enable_grad()
def through_base(
    base: FlowMap,
    x: Float[Tensor, "b *shape"],
    s: float,
    t: float,
    cond: Cond,
    adjoint: Float[Tensor, "b *shape"],
) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
    """Computes the base's velocity at x, and the adjoint carried back over the step from s to t."""
    x = x.detach().requires_grad_()
    velocity = base.velocity(x, s, cond)
    ahead = mean(base.schedule, base.schedule.from_velocity(velocity, x, s), s, t)
    (back,) = torch.autograd.grad(ahead, x, adjoint)
    return velocity.detach(), back
