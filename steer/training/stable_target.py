"""Stable targets: regression of the velocity on its exact value for the empirical data.

For data {z_i} and x = I_t, the posterior of the data point is

    p_i ~ exp(-|x - alpha_t z_i|^2 / (2 sigma_t^2)),

and the velocity of the empirical law is that of the clean mean sum_i p_i z_i. Flow matching has the
same minimiser with targets of large variance at small t, where many data points could have led to
x; at large t one point has all the weight, and the velocity is learned from the path itself or from
a teacher.

Reference: Xu, Tong & Jaakkola 2023, arXiv 2302.00670 (the stable target field, with a reference
batch; here the whole data set).
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from steer.conditions import Cond, pick
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import Endpoints, Schedule
from steer.training.base import Loss, Objective, mean_square
from steer.training.target_networks import TeacherTarget
from steer.training.times import TimeLaw, Uniform
from steer.training.weightings import Plain, Weighting

__all__ = ["StableTarget"]


class StableTarget(Objective):
    """Regression on the empirical velocity before `until`, on another target after it.

    It teaches the unconditional velocity: the student ignores its condition, or has none.

    Args:
        data: the data set, (N, *shape), on the scale of x1; N distances per sample.
        until: the time up to which the target is the empirical velocity.
        teacher: a conditional map whose velocity, at the true condition, is the target from then
            on: its mean given x_t is the unconditional velocity. None for the path's own I_t'.
        times: law of t; uniform by default.
        early: fraction of the batch with times uniform in (0, early_end) instead.
        early_end: see `early`.
        weighting: of the residuals, at (t, t).

    Raises:
        ValueError: times or a fraction outside [0, 1]; when called, data of another shape.
    """

    def __init__(
        self,
        data: Tensor,
        until: float = 0.12,
        teacher: FlowMap | None = None,
        times: TimeLaw | None = None,
        early: float = 0.0,
        early_end: float = 0.2,
        weighting: Weighting | None = None,
    ):
        super().__init__()
        for name, value in (("until", until), ("early", early), ("early_end", early_end)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is in [0, 1]; got {name}={value}")
        self.kept = (data.flatten(1),)  # a tuple hides it from torch: not saved with the run
        self.shape = data.shape[1:]
        self.until = until
        self.teacher = None if teacher is None else TeacherTarget(teacher)
        self.times = times or Uniform()
        self.early = early
        self.early_end = early_end
        self.weighting = weighting or Plain()
        self.learns_from = ("data",) if teacher is None else ("data", "a teacher")

    def forward(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        cond: Cond,
        generator: Generator,
        step: int,
    ) -> Loss:
        if x1.shape[1:] != self.shape:
            raise ValueError(
                f"the data set has samples of shape {tuple(self.shape)}, the batch of"
                f" {tuple(x1.shape[1:])}; give both alike"
            )
        t = self.draw_times(len(x1), generator)
        schedule = flow_map.schedule
        x_t = schedule.interpolate(x0, x1, t)
        with torch.no_grad():
            target = self.late_target(flow_map, x0, x1, x_t, t, cond, step)
            first = (t < self.until).nonzero()[:, 0]
            if len(first):
                (data,) = self.kept
                target[first] = empirical_velocity(
                    schedule, data.to(x_t.device), x_t[first], t[first]
                )
        residual = mean_square(flow_map.velocity(x_t, t, cond) - target)
        return Loss.of(self, self.weighting(residual, t, t).mean(), "diagonal", residual, t, t)

    def draw_times(self, n: int, generator: Generator) -> Float[Tensor, "n"]:
        """Draws times, the first of them early."""
        t = self.times.sample(n, generator)
        first = round(self.early * n)
        return torch.cat((t[:first] * self.early_end, t[first:])) if first else t

    def late_target(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        x_t: Tensor,
        t: Tensor,
        cond: Cond,
        step: int,
    ) -> Tensor:
        """Computes the teacher's conditional velocities, or the path's own."""
        target = flow_map.schedule.path_velocity(x0, x1, t)
        late = (t >= self.until).nonzero()[:, 0]
        if self.teacher is None or not len(late):
            return target
        teacher = self.teacher(flow_map, step)
        self.teacher.check(x_t, cond)
        target[late] = teacher.velocity(x_t[late], t[late], pick(cond, late)).to(target)
        return target


def empirical_velocity(
    schedule: Schedule,
    data: Float[Tensor, "n d"],
    x: Float[Tensor, "b *shape"],
    t: Float[Tensor, "b"],
) -> Float[Tensor, "b *shape"]:
    """Computes the velocity of the path from noise to the empirical law of the data, t < 1."""
    flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    data = data.to(flat)
    t = t.to(flat)
    alpha, sigma, _, _ = schedule.coefficients(t)
    inner = alpha[:, None] * (flat @ data.T) - 0.5 * alpha[:, None] ** 2 * data.square().sum(1)
    posterior = (inner / sigma[:, None] ** 2).softmax(dim=1)
    clean = posterior @ data
    noise = (flat - alpha[:, None] * clean) / sigma[:, None]
    return schedule.velocity(Endpoints(clean, noise), flat, t).to(x.dtype).view_as(x)
