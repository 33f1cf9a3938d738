"""Regression of jumps on simulated paths of a velocity.

    L_off = E |u_{s,t}(x_s) - (x_t - x_s) / (t - s)|^2,      dx/dt = b_t(x),  x_0 ~ N(0, I).

Nothing is bootstrapped: the target is as exact as the solver (and the cubic between its steps),
however long the jump, and x_s has the distribution in which a sampler will meet it, not that of the
data's path. No data are needed. The price is the paths, of which each serves several pairs of
times. From noise to data alone, by a path each, it is Luhman & Luhman's knowledge distillation.

A network that cannot be exact regresses toward the mean, which for images is a blur. A `metric` of
images d says which errors to prefer; one that can be exact has none to choose from. Of images
halfway to noise it knows nothing, so it compares the end of the path with the same moved by the
error e of X_{s,t}: + weight d(x_1 + e, x_1) / (t - s)^2, with gaps taken as .01 where they are
shorter.

Reference: Luhman & Luhman 2021, arXiv 2101.02388.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import Cond, pick
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import expand
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Target, mean_square

__all__ = ["Trajectory"]

Metric = Callable[[Tensor, Tensor], Tensor]
SHORTEST = 0.01  # a gap below it would leave the metric a difference of few digits


class Path(NamedTuple):
    """Simulated paths, with the cubic through positions and velocities between their nodes.

    Attributes:
        x, v: positions and velocities (n + 1, paths, *shape) at the times 0, 1/n, ..., 1.
    """

    x: Tensor
    v: Tensor

    def at(self, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates x and dx/dt (B, *shape) of path `index` (B,) at time t (B,).

        The error of x is of order 4 in 1/n.
        """
        n = len(self.x) - 1
        k = (t * n).long().clamp(0, n - 1)
        a, b = self.x[k, index], self.x[k + 1, index]
        v, w = self.v[k, index] / n, self.v[k + 1, index] / n
        f = expand(t * n - k, a)
        cubic = v + w - 2 * (b - a)
        square = 3 * (b - a) - 2 * v - w
        x = a + f * (v + f * (square + f * cubic))
        return x, n * (v + f * (2 * square + 3 * f * cubic))


class Trajectory(PairObjective):
    """The squared error against paths of the target network's velocity, from the batch's noise.

    Samples stand in groups of `shared`, whose first one's noise and condition are those of the
    group's path.

    Args:
        steps: of Heun's method from t = 0 to 1.
        shared: pairs of times that are learned from each path.
        metric: metric(x, y) -> (B,), of order 2 in x - y and differentiable, such as `Perceptual`;
            none by default.
        weight: of the metric beside the squared error.

    Raises:
        ValueError: steps or shared below 1, or a weight that is not positive.
    """

    asks = frozenset({"velocity"})
    claim: PairClaim = "exact up to the solver"

    def __init__(
        self, steps: int = 16, shared: int = 8, metric: Metric | None = None, weight: float = 1.0
    ):
        if min(steps, shared) < 1 or steps != int(steps) or shared != int(shared):
            raise ValueError(
                f"steps and shared are whole numbers, at least 1; got {steps=}, {shared=}"
            )
        if not weight > 0:
            raise ValueError(f"the weight of a metric is above 0; got weight={weight}")
        self.steps = steps
        self.shared = shared
        self.metric = metric
        self.weight = weight
        paths = f"{2 * steps + 1} F" if shared == 1 else f"{2 * steps + 1}/{shared} F"
        seen = "" if metric is None else ", and the metric's"
        self.card = Card("the flow itself", "none", "the path", f"{paths} + 1 F + 1 B{seen}")

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t = pairs.s, pairs.t
        index = torch.arange(len(s), device=s.device) // self.shared
        first = index * self.shared
        with torch.no_grad():
            cond = pick(pairs.cond, first[:: self.shared])
            path = self.follow(target.velocity, pairs.x0[:: self.shared], cond)
            x_s, v_s = path.at(index, s)
            x_t, _ = path.at(index, t)
            # over a short gap the tangent has more digits than the difference
            short = pairs.gap.abs() <= torch.finfo(x_s.dtype).eps ** 0.5
            chord = torch.where(short, v_s, (x_t - x_s) / torch.where(short, 1.0, pairs.gap))
        error = student.average_velocity(x_s, s, t, pick(pairs.cond, first)) - chord
        if self.metric is None:
            return mean_square(error)
        end = path.x[-1, index]
        gap = pairs.gap.abs().clamp_min(SHORTEST).copysign(pairs.gap).to(x_s.dtype)
        distance = self.metric(end + gap * error, end)
        return mean_square(error) + self.weight * distance / gap.flatten() ** 2

    def follow(self, field: FlowMap, x: Float[Tensor, "p *shape"], cond: Cond) -> Path:
        """Integrates the paths from noise x, by Heun's method."""
        h = 1 / self.steps
        v = field.velocity(x, 0.0, cond).to(x.dtype)
        positions = [x]
        velocities = [v]
        for k in range(1, self.steps + 1):
            ahead = field.velocity(x + h * v, k * h, cond).to(x.dtype)
            x = x + h * (v + ahead) / 2
            v = field.velocity(x, k * h, cond).to(x.dtype)
            positions.append(x)
            velocities.append(v)
        return Path(torch.stack(positions), torch.stack(velocities))
