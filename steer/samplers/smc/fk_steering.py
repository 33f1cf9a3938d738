"""Feynman-Kac steering: the plain noisy dynamics, resampled now and then by potentials.

At some of the steps, k = 1 ... K, each particle gets a potential G_k made of the values
V_k = scale * r at its look-ahead, and the particles of a prompt are resampled by their weights. The
potentials may be any whose product over a path is exp(scale r(x1)):

    difference    G_k = exp(V_k - V_{k-1}), V_0 = 0
    max           G_k = exp(max_{j<=k} V_j)
    sum           G_k = exp(sum_{j<=k} V_j)

For max and sum the last potential is exp(scale r(x1)) over the product of those before. The weights
then make the samples follow p_1 exp(scale r), p_1 the law of the plain dynamics. No gradient is
taken, so any reward will do.

Reference: Singhal et al. 2025, arXiv 2501.06848.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.flow_map import FlowMap
from steer.lookahead import Denoiser, Lookahead
from steer.resampling import Scheme, effective_sample_size, log_mean_exp, systematic, weighted_mean
from steer.samplers.base import Claim, Result, Stepwise
from steer.samplers.run import Run
from steer.samplers.sde import (
    NoiseLevel,
    claim_with_noise,
    copies_separate,
    noise_level,
    noisy_step,
)
from steer.samplers.smc.constraints import softened
from steer.samplers.smc.degeneracy import warn_of_degeneracy
from steer.samplers.smc.particles import moved_to_log_z

__all__ = ["FkSteering"]

Potential = Literal["difference", "max", "sum"]
PerPath = Float[Tensor, "p n"]
# What a path keeps for its next potential, and log G_k: from what it kept, the last value, the new.
POTENTIALS: dict[str, Callable[[PerPath, PerPath, PerPath], tuple[PerPath, PerPath]]] = {
    "difference": lambda kept, last, value: (value, value - last),
    "max": lambda kept, last, value: (torch.maximum(kept, value),) * 2,
    "sum": lambda kept, last, value: (kept + value,) * 2,
}


class Paths(NamedTuple):
    """Weighted particles and what their paths have accumulated.

    Attributes:
        x: (B, *shape).
        log_w: log weights since the last resampling, (P, N).
        log_z: log normalising constant accumulated before it, (P,).
        log_g: sum of the log potentials of each path, (P, N).
        value: last value of each path, (P, N).
        kept: running maximum or sum of values, (P, N).
        velocity: b_t(x), (B, *shape), where the look-ahead has just computed it.
    """

    x: Tensor
    log_w: Tensor
    log_z: Tensor
    log_g: Tensor
    value: Tensor
    kept: Tensor
    velocity: Tensor | None = None


class FkSteering(Stepwise[Paths]):
    """Sequential Monte Carlo on the plain dynamics; exact as steps and particles grow.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: where x_t will land; Denoiser(), as in the paper, by default.
        potential: "difference", "max" or "sum".
        every: steps between potentials; a last one comes at t = 1.
        resample_below: resample a prompt when its effective sample size falls below this fraction
            of its particles; at every potential by default.
        eps: the noise level, as in Sde. Without noise copies would stay identical.
        resampling: one of steer.resampling.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

    Raises:
        ValueError: for an unknown potential; when called, without a reward or with a step that adds
            no noise after copies.
    """

    claim = "exact"

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        potential: Potential = "difference",
        every: int = 20,
        *,
        resample_below: float = 1.0,
        eps: float | NoiseLevel = 1.0,
        resampling: Scheme = systematic,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if potential not in get_args(Potential):
            raise ValueError(
                f"potential is one of {', '.join(get_args(Potential))}; got {potential!r}"
            )
        if every < 1 or not 0 <= resample_below <= 1:
            raise ValueError(
                "FkSteering needs every >= 1 and resample_below in [0, 1];"
                f" got every={every}, resample_below={resample_below}"
            )
        self.lookahead = lookahead or Denoiser()
        self.potential = potential
        self.every = every
        self.resample_below = resample_below
        self.eps = eps
        self.resampling = resampling

    def claim_on(self, flow_map: FlowMap) -> Claim:
        return claim_with_noise(flow_map, self.eps, self.times())

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Paths:
        run.require_tilt(self, "Sde")
        zeros = x.new_zeros(run.prompts, run.particles, dtype=torch.float64)
        kept = torch.full_like(zeros, -torch.inf) if self.potential == "max" else zeros
        return Paths(x, zeros, zeros[:, 0], zeros, zeros, kept)

    def step(self, run: Run, now: Paths, s: float, t: float) -> Paths:
        x = noisy_step(run, now.x, s, t, noise_level(self.eps, run, s, t), now.velocity)
        now = now._replace(x=x, velocity=None)
        if t < 1 and (run.steps + 1) % self.every:
            run.record(t=t)
            return now
        ahead = run.value(self.lookahead, x, t)
        value = softened(run.by_prompt(ahead.value), t)
        now = self.weigh(now._replace(velocity=ahead.velocity), value, t)
        chosen = self.degenerate(run, now, t)
        run.record(
            t=t,
            seen_t=t,
            ess=effective_sample_size(now.log_w),
            resampled=chosen,
            reward=weighted_mean(now.log_w, run.by_prompt(ahead.reward)),
        )
        return self.resample(run, now, chosen)

    def finish(self, run: Run, last: Paths) -> Result:
        log_z = last.log_z + log_mean_exp(last.log_w)
        return Result(run.by_prompt(last.x), last.log_w, log_z, last.value)

    # --- its phases -----------------------------------------------------------------------------
    def weigh(self, now: Paths, value: PerPath, t: float) -> Paths:
        """Multiplies the weights by the potential of time t; the last completes the product."""
        kept, log_g = POTENTIALS[self.potential](now.kept, now.value, value)
        if t == 1.0:
            log_g = value - now.log_g
        return now._replace(
            log_w=now.log_w + log_g, log_g=now.log_g + log_g, value=value, kept=kept
        )

    def degenerate(self, run: Run, now: Paths, t: float) -> Bool[Tensor, "p"]:
        """Chooses the prompts to resample: uneven weights, and noise ahead to separate copies."""
        warn_of_degeneracy(run, now.log_w, t)
        chosen = effective_sample_size(now.log_w) < self.resample_below * run.particles
        if chosen.any() and not copies_separate(self.eps, run, self.times(), t):
            return torch.zeros_like(chosen)
        return chosen

    def resample(self, run: Run, now: Paths, chosen: Bool[Tensor, "p"]) -> Paths:
        """Resamples the chosen prompts; paths take what they have accumulated with them."""
        if not chosen.any():
            return now
        ancestors = run.ancestors(self.resampling, now.log_w, chosen)
        log_w, log_z = moved_to_log_z(now.log_w, now.log_z, chosen)
        velocity = None if now.velocity is None else run.descendants(now.velocity, ancestors)
        return Paths(
            run.descendants(now.x, ancestors),
            log_w,
            log_z,
            run.of_particles(now.log_g, ancestors),
            run.of_particles(now.value, ancestors),
            run.of_particles(now.kept, ancestors),
            velocity,
        )
