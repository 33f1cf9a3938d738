"""Tuning by a deterministic control: the flow's velocity is changed, at a price for its energy.

    maximise E[scale r(x_1) - 1/2 int |p_t(x_t)|^2 dt],      x_t' = b_t(x_t) + p_t(x_t),

b the velocity of the base. Each noise goes by itself to argmax_y scale r(y) - c(x0, y), with c the
least energy that carries it there: a transport along the base's flow, not the tilted distribution.
From N(m, s^2) on the linear path c = |y - m - s x0|^2 / (2 tau), tau = pi s / 2: r = a . x gives
N(m + tau a, s^2), where the tilt is N(m + s^2 a, s^2), and r = -k/2 (x - y*)^2 the standard
deviation s / (1 + tau k), where the tilt has s / sqrt(1 + k s^2). The best control is the gradient
of the value of the problem. Methods differ in how they estimate it:

    L = E |u_{t,t}(x_t) - sg[b_t(x_t) + p_t(x_t)]|^2 + off_weight L_off,      x_t = sg X_{0,t}(x0),

L_off is an off-diagonal objective of `steer.training` at the same x_t, from the map's own velocity:
the endpoints of x_t are those which this velocity implies, so that I_t = x_t and I_t' = u_{t,t}.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import NotNegative
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tilt import Tilt
from steer.training.base import Loss, PairObjective, Pairs, Target, mean_square
from steer.training.semigroup import Semigroup
from steer.training.times import TimeLaw, Uniform
from steer.tuning.objective import TuningClaim, TuningObjective, require_gradient

__all__ = ["Control", "TransportTuning"]


class Control(NamedTuple):
    """An estimate of the best control.

    Attributes:
        p: (B, *shape), detached.
        tilt: scale * r of the clean samples that it comes from, (B,).
        losses: further losses, (B,) each, to be minimised with the rest.
    """

    p: Tensor
    tilt: Tensor
    losses: dict[str, Tensor]


class TransportTuning(TuningObjective):
    """Regression of u_{t,t} on the base's velocity plus a control, and of the jumps on u_{t,t}.

    Args:
        times: law of t; uniform by default.
        off_diagonal: what teaches the jumps, from t to a uniform time after it; Semigroup() by
            default.
        off_weight: of the off-diagonal loss; 0 tunes the velocity alone.

    Raises:
        ValueError: settings out of range; when called, a reward without a gradient.
        NonFiniteReward: when called, naming the sample.
    """

    claim: TuningClaim = "transport"
    needs_gradient = True
    interpolates = False

    def __init__(
        self,
        *,
        times: TimeLaw | None = None,
        off_diagonal: PairObjective | None = None,
        off_weight: NotNegative = 1.0,
    ):
        super().__init__()
        self.times = times or Uniform()
        self.off_diagonal = off_diagonal or Semigroup()
        self.off_weight = off_weight

    @abstractmethod
    def control(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        tau: Float[Tensor, "b"],
        cond: Cond,
    ) -> Control:
        """Estimates the best control at x_t; tau is uniform in [t, 1]."""

    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        require_gradient(tilt)
        t = self.times.sample(len(x0), generator)
        later = torch.rand(len(x0), generator=generator, device=x0.device, dtype=t.dtype)
        tau = t + (1 - t) * later
        with torch.no_grad():
            x_t = flow_map(x0, 0.0, t, cond)
        p, gain, losses = self.control(flow_map, base, tilt, x_t, t, tau, cond)
        with torch.no_grad():
            target = base.velocity(x_t, t, cond) + p
        u = flow_map.velocity(x_t, t, cond)
        losses = {"diagonal": mean_square(u - target), **losses}
        total = torch.stack([each.mean() for each in losses.values()]).sum()
        if self.off_weight > 0:
            ends = flow_map.schedule.from_velocity(u.detach(), x_t, t)
            pairs = Pairs(ends.noise, ends.clean, t, tau, cond, step)
            off = self.off_diagonal(flow_map, Target(flow_map, flow_map), pairs, generator)
            losses["off_diagonal"] = off
            total = total + self.off_weight * off.mean()
        terms = {name: each.detach().mean() for name, each in losses.items()}
        return Loss(total, {"tilt": gain.mean(), **terms})
