"""Weighted particles of several prompts, and their resampling."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.interpolant import expand
from steer.resampling import log_mean_exp
from steer.samplers.run import Run
from steer.samplers.sde import score_of
from steer.samplers.smc.constraints import softened
from steer.value import LookaheadValue


class Particles(NamedTuple):
    """Weighted particles at one time t.

    Attributes:
        x: (B, *shape), the particles of a prompt side by side.
        ahead: the look-ahead from x.
        score: s_t(x), (B, *shape); zero at t = 1, where it may not exist.
        level: annealing level l_t of each particle, (B,).
        log_w: log weights since the last resampling, (P, N).
        log_z: log normalising constant accumulated before it, (P,).
    """

    x: Tensor
    ahead: LookaheadValue
    score: Tensor
    level: Tensor
    log_w: Tensor
    log_z: Tensor

    @property
    def tilt(self) -> Float[Tensor, "b"]:
        """r_t = l_t V_t."""
        return self.level * self.ahead.value

    @property
    def gradient(self) -> Float[Tensor, "b *shape"]:
        """grad r_t."""
        assert self.ahead.gradient is not None
        return expand(self.level, self.x) * self.ahead.gradient

    @property
    def rate(self) -> Float[Tensor, "b"]:
        """(d_t + b . grad) V_t along the flow; zero where the look-ahead is constant along it."""
        ahead = self.ahead
        if ahead.time_derivative is None:
            return torch.zeros_like(ahead.value)
        assert ahead.gradient is not None
        assert ahead.velocity is not None
        return ahead.time_derivative + dot(ahead.gradient, ahead.velocity)


def particles_at(
    run: Run,
    x: Float[Tensor, "b *shape"],
    t: float,
    ahead: LookaheadValue,
    log_w: Float[Tensor, "p n"],
    log_z: Float[Tensor, "p"],
) -> Particles:
    """Joins particles with what is seen from them at time t, at full annealing level.

    Values of violated constraints are softened before t = 1.
    """
    value = softened(run.by_prompt(ahead.value), t).flatten()
    score = torch.zeros_like(x)
    if t < 1 and ahead.velocity is not None:
        score = score_of(run.flow_map.schedule, ahead.velocity, x, t)
    return Particles(x, ahead._replace(value=value), score, torch.ones_like(value), log_w, log_z)


def copied(run: Run, now: Particles, ancestors: Tensor) -> Particles:
    """Re-indexes all that is known of each particle by its ancestor; weights stay in place."""
    ahead: list[Any] = [
        None if part is None else run.descendants(part, ancestors) for part in now.ahead
    ]
    return now._replace(
        x=run.descendants(now.x, ancestors),
        ahead=LookaheadValue(*ahead),
        score=run.descendants(now.score, ancestors),
        level=run.descendants(now.level, ancestors),
    )


def moved_to_log_z(
    log_w: Float[Tensor, "p n"], log_z: Float[Tensor, "p"], chosen: Bool[Tensor, "p"]
) -> tuple[Float[Tensor, "p n"], Float[Tensor, "p"]]:
    """Resets the weights of the chosen prompts and moves their mean into log Z."""
    after = torch.where(chosen, log_z + log_mean_exp(log_w), log_z)
    return torch.where(chosen[:, None], torch.zeros_like(log_w), log_w), after


def weight_variability(
    log_w: Float[Tensor, "p n"], increments: Float[Tensor, "p n"]
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
    """Computes how uneven one step makes the weights.

    Returns:
        standard deviation of the log-weight increments under the weights before the step, and
        log(1 + CV^2) of their exponentials.
    """
    lost = (increments == -torch.inf) | (log_w == -torch.inf)  # particles of weight zero
    none = lost.all(dim=1, keepdim=True)
    log_w = torch.where(none, 0.0, torch.where(lost, -torch.inf, log_w))
    log_p = torch.log_softmax(log_w, dim=1)
    increments = torch.where(lost, 0.0, increments)
    p = log_p.exp()
    mean = (p * increments).sum(1, keepdim=True)
    std = (p * (increments - mean).square()).sum(1).sqrt()
    centred = log_p + increments - mean
    second = torch.logsumexp(centred + increments - mean, dim=1)
    discrepancy = second - 2 * torch.logsumexp(centred, dim=1)
    return std, discrepancy.clamp_min(0)  # negative only by rounding


def dot(a: Float[Tensor, "b *shape"], b: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Inner product of each sample, in float64."""
    return (a.double() * b.double()).flatten(1).sum(1)
