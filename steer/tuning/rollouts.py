"""Rollouts: from noise to clean samples, with gradients through the last moves only."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap


class Rollout(ABC):
    """rollout(flow_map, x0, cond, generator) -> z (B, *shape), differentiable in the model's weights."""

    @abstractmethod
    def __call__(
        self, flow_map: FlowMap, x0: Float[Tensor, "b *shape"], cond: Cond, generator: torch.Generator
    ) -> Float[Tensor, "b *shape"]:
        """Clean samples from noise x0."""


class Jumps(Rollout):
    """Look-ahead through the last `last` jumps: x0 -> x_{t1} -> ... -> x_1, each jump one evaluation.

    With last = 1, a share `from_noise` of the batch jumps from the noise itself; the rest first jumps, without gradient,
    to a uniform time s, and is rewarded where it lands from there. So every X_{s,1} learns, for at most two evaluations
    a sample. With last = k, k - 1 sorted uniform times come between s and 1, and all k jumps learn.

    Args:
        last: number of jumps that carry gradients.
        from_noise: part of the batch that starts at s = 0.
    """

    def __init__(self, last: int = 1, from_noise: float = 0.5):
        if last < 1 or not 0 <= from_noise <= 1:
            raise ValueError(f"Jumps needs last >= 1 and from_noise in [0, 1]; got {last} and {from_noise}")
        self.last, self.from_noise = last, from_noise

    def __call__(
        self, flow_map: FlowMap, x0: Float[Tensor, "b *shape"], cond: Cond, generator: torch.Generator
    ) -> Float[Tensor, "b *shape"]:
        times = torch.rand(self.last, len(x0), generator=generator, device=x0.device).sort(dim=0).values
        direct = round(self.from_noise * len(x0))
        times[0, :direct] = 0.0
        x = x0
        if direct < len(x0):
            with torch.no_grad():
                rest = None if cond is None else cond[direct:]
                x = torch.cat((x0[:direct], flow_map(x0[direct:], 0.0, times[0, direct:], rest)))
        for s, t in zip(times, [*times[1:], torch.ones_like(times[0])], strict=True):
            x = flow_map(x, s, t, cond)
        return x


class EulerSteps(Rollout):
    """N Euler steps along the velocity, gradients through the last K: DRaFT-K (K = N is DRaFT, AlignProp).

    Args:
        steps: N.
        last: K.
    """

    def __init__(self, steps: int = 50, last: int = 1):
        if not 1 <= last <= steps:
            raise ValueError(f"EulerSteps needs 1 <= last <= steps; got last={last} of steps={steps}")
        self.steps, self.last = steps, last

    def __call__(
        self, flow_map: FlowMap, x0: Float[Tensor, "b *shape"], cond: Cond, generator: torch.Generator
    ) -> Float[Tensor, "b *shape"]:
        x = x0
        for k in range(self.steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= self.steps - self.last):
                x = x + flow_map.velocity(x, k / self.steps, cond) / self.steps
        return x
