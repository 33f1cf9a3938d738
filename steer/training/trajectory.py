"""The flow itself: jumps learned as plain regression on paths that a velocity was followed along.

    L_off = E |u_{s,t}(x_s) - (x_t - x_s) / (t - s)|^2,      dx/dt = b_t(x),  x_0 ~ N(0, I).

No identity is bootstrapped from: the target is as exact as the solver (and the cubic between its
steps), however long the
jump, and x_s has the law in which a sampler will meet it, not that of the data's path. Nor are data
asked for. The price is the paths, of which each serves several pairs of times. From noise to data
alone, by a path each, it is Luhman & Luhman's knowledge distillation.

A network that cannot be exact regresses toward the mean, which for images is a blur. A `metric` of
images d says which errors to prefer; one that can be exact has none to choose from. Of images
halfway to noise it knows nothing, so it is asked at the end of the path about the error e of
X_{s,t}: + weight d(x_1 + e, x_1) / (t - s)^2, with gaps taken as .01 where they are shorter.

Reference: Luhman & Luhman 2021, arXiv 2101.02388.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap, ResidualMap, pick
from steer.interpolant import expand
from steer.training.base import Card, Target, PairObjective, Pairs, mean_square

__all__ = ["Trajectory"]

Metric = Callable[[Tensor, Tensor], Tensor]
SHORTEST = 0.01  # a gap below it would leave the metric a difference of few digits


class Path(NamedTuple):
    """Places and velocities (n + 1, paths, *shape) at the times 0, 1/n, ..., 1; between them, the
    cubic through both.
    """

    x: Tensor
    v: Tensor

    def at(self, row: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x and dx/dt (B, *shape) of path `row` (B,) at time t (B,). The error of x is of order 4
        in 1/n.
        """
        n = len(self.x) - 1
        k = (t * n).long().clamp(0, n - 1)
        a, b, v, w = self.x[k, row], self.x[k + 1, row], self.v[k, row] / n, self.v[k + 1, row] / n
        f = expand(t * n - k, a)
        bow, lean = v + w - 2 * (b - a), 3 * (b - a) - 2 * v - w
        return a + f * (v + f * (lean + f * bow)), n * (v + f * (2 * lean + 3 * f * bow))


class Trajectory(PairObjective):
    """The squared error against paths of the held velocity, integrated from the batch's noise as it
    goes.

    Samples stand in groups of `shared`, whose first one's noise and condition are those of the
    group's path.

    Args:
        steps: of Heun's method from t = 0 to 1.
        shared: pairs of times that are learned from each path.
        metric: metric(x, y) -> (B,), of order 2 in x - y and differentiable, such as `Perceptual`;
            none by default.
        weight: of the metric beside the squared error.
    """

    asks = frozenset({"velocity"})

    def __init__(
        self, steps: int = 16, shared: int = 8, metric: Metric | None = None, weight: float = 1.0
    ):
        if min(steps, shared) < 1 or steps != int(steps) or shared != int(shared):
            raise ValueError(
                f"a path has a number of steps and serves a number of pairs; got {steps=}, {shared=}"
            )
        if not weight > 0:
            raise ValueError(f"the weight of a metric is above 0; got {weight}")
        self.steps, self.shared, self.metric, self.weight = steps, shared, metric, weight
        paths = f"{2 * steps + 1} F" if shared == 1 else f"{2 * steps + 1}/{shared} F"
        seen = "" if metric is None else ", and the metric's"
        self.card = Card("the flow itself", "none", "the path", f"{paths} + 1 F + 1 B{seen}")

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, row = (
            pairs.s,
            pairs.t,
            torch.arange(len(pairs.s), device=pairs.s.device) // self.shared,
        )
        first = row * self.shared
        with torch.no_grad():
            path = self.follow(
                target.velocity, pairs.x0[:: self.shared], pick(pairs.cond, first[:: self.shared])
            )
            (x_s, v_s), (x_t, _) = path.at(row, s), path.at(row, t)
            short = (
                pairs.gap.abs() <= torch.finfo(x_s.dtype).eps ** 0.5
            )  # for which the tangent has more digits
            chord = torch.where(short, v_s, (x_t - x_s) / torch.where(short, 1.0, pairs.gap))
        error = student.average_velocity(x_s, s, t, pick(pairs.cond, first)) - chord
        if self.metric is None:
            return mean_square(error)
        end, gap = (
            path.x[-1, row],
            pairs.gap.abs().clamp_min(SHORTEST).copysign(pairs.gap).to(x_s.dtype),
        )
        return (
            mean_square(error)
            + self.weight * self.metric(end + gap * error, end) / gap.flatten() ** 2
        )

    def follow(self, field: FlowMap, x: Float[Tensor, "p *shape"], cond: Cond) -> Path:
        """The paths from noise x, by Heun's method."""
        h = 1 / self.steps
        v = field.velocity(x, 0.0, cond).to(x.dtype)
        places, velocities = [x], [v]
        for k in range(1, self.steps + 1):
            ahead = field.velocity(x + h * v, k * h, cond).to(x.dtype)
            x = x + h * (v + ahead) / 2
            v = field.velocity(x, k * h, cond).to(x.dtype)
            places.append(x)
            velocities.append(v)
        return Path(torch.stack(places), torch.stack(velocities))
