"""Noise optimisation: gradient ascent on the initial noise, through the jumps of the map.

    x0 <- x0 + lr * step of gradient ascent on   scale * r(X(x0)) + prior * log p(|x0|),
    log p(|x0|) = (d - 1) log |x0| - |x0|^2 / 2,

X being k jumps of the map and the second term the log density of the norm of d normal numbers.
Gradients are clipped sample by sample; the best endpoint seen is returned.

References: Eyring et al. 2024, arXiv 2406.04312 (ReNO: one-step models, this regulariser, Nesterov
momentum, clipping); Ben-Hamu et al. 2024, arXiv 2402.14017 (D-Flow: through the whole flow; here
by more jumps).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.tilt import Tilt, check_gradient, no_gradient
from steer.value import require_gradient

__all__ = ["NoiseOptimisation"]

INSTEAD = "BestOfN or FkSteering"


class Ends(NamedTuple):
    """Endpoints of the noise, all (B, ...): X(x0), scale * r and r there, gradient in x0."""

    x: Tensor
    value: Tensor
    reward: Tensor
    gradient: Tensor


class Ascent(NamedTuple):
    """The noise, its momentum, its endpoints now, and the best endpoints so far."""

    z: Tensor
    momentum: Tensor
    here: Ends
    best: Ends


class NoiseOptimisation(Stepwise[Ascent]):
    """Gradient ascent on the noise of each particle. A maximiser: no stated law.

    Args:
        steps: of ascent, K; they cost K jumps forwards and backwards, and one more jump forwards.
        jumps: of the map, from noise to data, in each.
        lr: length of a step along the clipped gradient.
        prior: weight of the norm's log density.
        momentum: of Nesterov's; 0 for plain ascent.
        clip: most norm of a sample's gradient, or None.
        keep_best: return the best endpoint seen, by the reward; otherwise the last.
        max_batch: as in Stepwise.

    Raises:
        ValueError: settings out of range; when called, without a reward or with one that has no
            gradient.
    """

    deterministic = True
    claim = "maximiser"
    needs_gradient = True

    def __init__(
        self,
        steps: int = 20,
        jumps: int = 1,
        lr: float = 5.0,
        prior: float = 0.01,
        momentum: float = 0.9,
        clip: float | None = 0.1,
        keep_best: bool = True,
        max_batch: int | None = None,
    ):
        if (
            jumps < 1
            or not lr > 0
            or prior < 0
            or not 0 <= momentum < 1
            or (clip is not None and clip <= 0)
        ):
            raise ValueError(
                "NoiseOptimisation needs jumps >= 1, lr, clip > 0, prior >= 0, momentum in [0, 1);"
                f" got jumps={jumps}, lr={lr}, clip={clip}, prior={prior}, momentum={momentum}"
            )
        super().__init__(steps, max_batch)
        self.jumps = jumps
        self.lr = lr
        self.prior = prior
        self.momentum = momentum
        self.clip = clip
        self.keep_best = keep_best

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Ascent:
        require_gradient(run.require_tilt(self, "Jump"), INSTEAD)
        here = self.look(run, x, last=False)
        return Ascent(x, torch.zeros_like(x), here, here)

    def step(self, run: Run, now: Ascent, s: float, t: float) -> Ascent:
        """Takes one step of ascent; the grid of times counts steps, t = k / steps."""
        gradient = self.clipped(now.here.gradient)
        momentum = self.momentum * now.momentum + gradient
        z = now.z + self.lr * (gradient + self.momentum * momentum)
        here = self.look(run, z, last=t == 1.0)
        run.record(t=t, reward=run.by_prompt(here.reward).mean(1))
        best = better(now.best, here) if self.keep_best else here
        return Ascent(z, momentum, here, best)

    def finish(self, run: Run, last: Ascent) -> Result:
        return unweighted_result(run, last.best.x, run.by_prompt(last.best.value))

    # --- its parts -------------------------------------------------------------------------------
    def look(self, run: Run, z: Tensor, last: bool) -> Ends:
        """Evaluates endpoints, rewards and, except at the last step, gradients."""
        tilt = run.tilt

        def part(z: Tensor, scale: Tensor, cond: Cond) -> Ends:
            return self.part(run.flow_map, z, tilt.with_scale(scale), cond, last)

        return run.in_batches(part, z, tilt.scale_for(len(z)))

    def part(self, flow_map: FlowMap, z: Tensor, tilt: Tilt, cond: Cond, last: bool) -> Ends:
        """Evaluates them for some of the samples."""
        with torch.set_grad_enabled(not last):
            z = z.detach().requires_grad_(not last)
            x = z
            for k in range(self.jumps):
                x = flow_map(x, k / self.jumps, (k + 1) / self.jumps, cond)
            rewards = tilt.rewards(x, cond, 1.0)
            value = tilt.scaled(rewards)
            if last:
                return Ends(x, value, rewards, torch.zeros_like(z))
            if not value.requires_grad:
                raise ValueError(no_gradient(tilt.reward, INSTEAD))
            norm = z.flatten(1).norm(dim=1)
            prior = (z[0].numel() - 1) * norm.log() - norm.square() / 2
            (gradient,) = torch.autograd.grad((value + self.prior * prior).sum(), z)
        check_gradient(tilt, gradient, 1.0)
        return Ends(x.detach(), value.detach(), rewards.detach(), gradient)

    def clipped(self, gradient: Tensor) -> Tensor:
        """Clips each sample's gradient to the norm `clip`."""
        if self.clip is None:
            return gradient
        length = gradient.flatten(1).norm(dim=1).clamp_min(self.clip)
        return gradient * (self.clip / length).view(-1, *[1] * (gradient.ndim - 1))


def better(one: Ends, other: Ends) -> Ends:
    """Selects for each sample the endpoint of higher value."""
    won = other.value > one.value
    parts = zip(one, other, strict=True)
    return Ends(*(torch.where(won.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in parts))
