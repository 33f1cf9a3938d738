"""Rollouts: from noise to clean samples, with gradients through the last moves only.

A rollout also measures what a change of the model did to its moves. The energy of a change is
int |v - v_base|^2 dt, summed over dimensions, v the velocity that the rollout moves by: along its
jumps, u_{s,t} for a time t - s each; along small steps, b_t. Along the tuned model's own paths the
latter is the KL between the path measures of tuned and base model under noise of variance 1/2 per
unit of time; it is estimated on renoised samples, which is the same where the velocity is that of
the samples' distribution. For one jump from noise the energy is |X_{0,1} - X^base_{0,1}|^2, the
squared distance that the sample was moved by.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import expand


class Move(NamedTuple):
    """A jump from x at s to t by the average velocity u.

    Attributes:
        x: where it starts, (B, *shape).
        s, t: its times (B,).
        u: (B, *shape), which carries the gradient.
    """

    x: Tensor
    s: Tensor
    t: Tensor
    u: Tensor


class Rolled(NamedTuple):
    """The result of a rollout.

    Attributes:
        z: clean samples (B, *shape), differentiable in the model's weights.
        moves: the jumps that led there, if by jumps.
    """

    z: Tensor
    moves: tuple[Move, ...] = ()


class Rollout(ABC):
    """rollout(flow_map, x0, cond, generator) -> Rolled."""

    @abstractmethod
    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        """Draws clean samples from noise x0."""

    @abstractmethod
    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Computes the energy of the change, with its gradient, for the samples in `indices`."""


class Jumps(Rollout):
    """Look-ahead through the last `last` jumps: x0 -> x_{t1} -> ... -> x_1.

    Each jump is one evaluation. With last = 1, a share `from_noise` of the batch jumps from the
    noise itself; the rest first jumps, without gradient, to a uniform time s, and is rewarded where
    it lands from there. So every X_{s,1} learns, for at most two evaluations a sample. With last =
    k, k - 1 sorted uniform times come between s and 1, and all k jumps learn.

    Args:
        last: number of jumps that carry gradients.
        from_noise: part of the batch that starts at s = 0.

    Raises:
        ValueError: last below 1, or from_noise outside [0, 1].
    """

    def __init__(self, last: int = 1, from_noise: float = 0.5):
        if last < 1 or not 0 <= from_noise <= 1:
            raise ValueError(
                "Jumps needs last >= 1 and from_noise in [0, 1];"
                f" got last={last}, from_noise={from_noise}"
            )
        self.last = last
        self.from_noise = from_noise

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        drawn = torch.rand(self.last, len(x0), generator=generator, device=x0.device)
        times = drawn.sort(dim=0).values
        direct = round(self.from_noise * len(x0))
        times[0, :direct] = 0.0
        x = x0
        moves = []
        if direct < len(x0):
            with torch.no_grad():
                rest = None if cond is None else cond[direct:]
                x = torch.cat((x0[:direct], flow_map(x0[direct:], 0.0, times[0, direct:], rest)))
        for s, t in zip(times, [*times[1:], torch.ones_like(times[0])], strict=True):
            u = flow_map.average_velocity(x, s, t, cond)
            moves.append(Move(x, s, t, u))
            x = x + expand(t - s, x) * u
        return Rolled(x, tuple(moves))

    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Sums (t - s) |u - u_base|^2 over the jumps.

        It costs one evaluation of the base for each, and none of the model.
        """
        return torch.stack([jump_energy(move, base, indices, cond) for move in rolled.moves]).sum(0)


class EulerSteps(Rollout):
    """N Euler steps along the velocity, gradients through the last K: DRaFT-K.

    K = N is DRaFT, or AlignProp.

    Args:
        steps: N.
        last: K.

    Raises:
        ValueError: unless 1 <= last <= steps.
    """

    def __init__(self, steps: int = 50, last: int = 1):
        if not 1 <= last <= steps:
            raise ValueError(
                f"EulerSteps needs 1 <= last <= steps; got last={last} of steps={steps}"
            )
        self.steps = steps
        self.last = last

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        x = x0
        for k in range(self.steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= self.steps - self.last):
                x = x + flow_map.velocity(x, k / self.steps, cond) / self.steps
        return Rolled(x)

    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Computes |b_t - b_base|^2 at a uniform time along each renoised sample.

        It costs one evaluation of each map.
        """
        z = rolled.z[indices].detach()
        part = None if cond is None else cond[indices]
        return drift_energy(flow_map, base, z, part, generator)


def jump_energy(move: Move, base: FlowMap, indices: slice, cond: Cond) -> Float[Tensor, "n"]:
    """Computes (t - s) |u - u_base|^2, summed over dimensions.

    Its gradient passes through u and through x, where earlier jumps put it.
    """
    x, s, t, u = (part[indices] for part in move)
    with torch.set_grad_enabled(x.requires_grad):
        reference = base.average_velocity(x, s, t, None if cond is None else cond[indices])
    return (t - s) * squared_norm(u - reference)


def drift_energy(
    flow_map: FlowMap,
    base: FlowMap,
    x1: Float[Tensor, "b *shape"],
    cond: Cond,
    generator: torch.Generator,
) -> Float[Tensor, "b"]:
    """Computes |b_t(x_t) - b_base(x_t)|^2 at one uniform time per sample, summed over dimensions.

    It is unbiased for its integral over t.
    """
    t = torch.rand(len(x1), generator=generator, device=x1.device)
    noise = torch.randn(x1.shape, generator=generator, device=x1.device, dtype=x1.dtype)
    x_t = flow_map.schedule.interpolate(noise, x1, t)
    with torch.no_grad():
        reference = base.velocity(x_t, t, cond)
    return squared_norm(flow_map.velocity(x_t, t, cond) - reference)


def squared_norm(change: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Sums the squares of each sample, in float32 or better."""
    return change.to(torch.promote_types(change.dtype, torch.float32)).square().flatten(1).sum(1)
