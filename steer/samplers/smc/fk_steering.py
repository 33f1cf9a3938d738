"""Feynman-Kac steering: the plain noisy dynamics, and now and then the particles that promise most
are kept and copied.

At some of the steps, k = 1 ... K, each particle gets a potential G_k made of the values V_k = scale
* r at its look-ahead, and the particles of a prompt are resampled by their weights. Any potentials
do whose product over a path is exp(scale r(x1)):

    difference    G_k = exp(V_k - V_{k-1}), V_0 = 0
    max           G_k = exp(max_{j<=k} V_j),     and the last one exp(scale r(x1)) over the product of those before
    sum           G_k = exp(sum_{j<=k} V_j),     likewise

The weights, the last correction among them, then make the samples follow p_1 exp(scale r), p_1 the
law of the plain dynamics. No gradient is taken, so any reward will do.

Reference: Singhal et al. 2025, arXiv 2501.06848.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import FlowMap
from steer.lookahead import Denoiser, Lookahead
from steer.resampling import Scheme, effective_sample_size, log_mean_exp, systematic, weighted_mean
from steer.samplers.base import Claim, Result, Run, Stepwise
from steer.samplers.looking import look
from steer.samplers.sde import NoiseLevel, claim_with_noise, noise_level, noisy_step, will_part
from steer.samplers.smc.constraints import softened
from steer.samplers.smc.degeneracy import warn_of_collapse
from steer.samplers.smc.particles import moved_to_log_z, of_ancestors

__all__ = ["FkSteering"]

Potential = Literal["difference", "max", "sum"]


class Walkers(NamedTuple):
    """Particles x (B, *shape), log weights (P, N) since the last resampling, log Z (P,) before it;
    and of each particle's path, (P, N): what its potentials have come to, the last value, and the
    running maximum or sum of values. Then the velocity at x (B, *shape), where a look-ahead has
    just computed it.
    """

    x: Tensor
    log_w: Tensor
    log_z: Tensor
    spent: Tensor
    value: Tensor
    running: Tensor
    steps: int
    velocity: Tensor | None = None


class FkSteering(Stepwise[Walkers]):
    """Sequential Monte Carlo on the plain dynamics, weighed by a look-ahead. Exact as steps and
    particles grow.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: where x_t will land; Denoiser(), as in the paper, by default.
        potential: "difference", "max" or "sum".
        every: steps between potentials; a last one comes at t = 1.
        resample_below: resample a prompt when its effective sample size falls below this fraction
            of its particles; at every potential by default.
        eps: the noise level, as in Sde. Without noise copies would stay alike.
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
                f"FkSteering needs every >= 1 and resample_below in [0, 1]; got every={every}, "
                f"resample_below={resample_below}"
            )
        self.lookahead, self.potential, self.every = lookahead or Denoiser(), potential, every
        self.resample_below, self.eps, self.resampling = resample_below, eps, resampling

    def claim_on(self, flow_map: FlowMap) -> Claim:
        return claim_with_noise(flow_map, self.eps, self.times())

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Walkers:
        if run.tilt is None:
            raise ValueError(
                "FkSteering follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        zeros = x.new_zeros(run.prompts, run.particles, dtype=torch.float64)
        least = torch.full_like(zeros, -torch.inf) if self.potential == "max" else zeros
        return Walkers(x, zeros, zeros[:, 0], zeros, zeros, least, 0)

    def step(self, run: Run, now: Walkers, s: float, t: float) -> Walkers:
        now = now._replace(x=self.advance(run, now, s, t), steps=now.steps + 1, velocity=None)
        if t < 1 and now.steps % self.every:
            run.record(t=t)
            return now
        seen = look(self, run, now.x, t, self.lookahead)
        now = self.weighed(
            now._replace(velocity=seen.velocity), softened(run.by_prompt(seen.value), t), t
        )
        return self.select(run, now, run.by_prompt(seen.reward), t)

    def finish(self, run: Run, last: Walkers) -> Result:
        return Result(
            run.by_prompt(last.x), last.log_w, last.log_z + log_mean_exp(last.log_w), last.value
        )

    # --- its parts -------------------------------------------------------------------------------
    def advance(self, run: Run, now: Walkers, s: float, t: float) -> Tensor:
        """A step of Sde."""
        return noisy_step(self, run, now.x, s, t, noise_level(self.eps, run, s, t), now.velocity)

    def weighed(self, now: Walkers, value: Tensor, t: float) -> Walkers:
        """With the potential of time t in the weights; at t = 1 the one that settles all accounts."""
        match self.potential:
            case "difference":
                running, log_g = value, value - now.value
            case "max":
                running = log_g = torch.maximum(now.running, value)
            case _:
                running = log_g = now.running + value
        if t == 1.0:
            log_g = value - now.spent
        return now._replace(
            log_w=now.log_w + log_g, spent=now.spent + log_g, value=value, running=running
        )

    def select(self, run: Run, now: Walkers, reward: Tensor, t: float) -> Walkers:
        """Resampling where a prompt's weights have grown uneven; nothing where copies would end as
        twins.
        """
        ess = effective_sample_size(now.log_w)
        warn_of_collapse(run, now.log_w, t)
        due = ess < self.resample_below * run.particles
        if due.any() and not will_part(self.eps, run, self.times(), t):
            due = torch.zeros_like(due)
        mean = weighted_mean(now.log_w, reward)
        run.record(t=t, seen_t=t, ess=ess, resampled=due, reward=mean)
        if not due.any():
            return now
        ancestors = run.ancestors(self.resampling, now.log_w, due)
        rows = torch.arange(run.prompts, device=run.device)[:, None]
        spent, value, running = (
            kept[rows, ancestors] for kept in (now.spent, now.value, now.running)
        )
        log_w, log_z = moved_to_log_z(now.log_w, now.log_z, due)
        x = of_ancestors(run, now.x, ancestors)
        velocity = None if now.velocity is None else of_ancestors(run, now.velocity, ancestors)
        return Walkers(x, log_w, log_z, spent, value, running, now.steps, velocity)
