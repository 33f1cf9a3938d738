"""Flow Map Trajectory Tilting (FMTT): guidance by where the path will land, with exact weights.

The target moves from noise to the tilt, p_t exp(r_t) with r_t = l_t V_t, l_t = t unless another
annealing is asked for, and V_t = scale * r at the look-ahead of x_t:

    dx = [b + eps (s + grad r_t) + chi grad r_t] dt + sqrt(2 eps) dW.

Each step is an Euler-Maruyama step whose kick, (eps + chi) h grad r_t, stays inside a trust region
of so many standard deviations of the noise; it is weighed by exp(r_t(x') - r_s(x)) and the ratio of
two Gaussians, the unguided step over the guided one. That is exact at any step size, relative to
the unguided chain, for every look-ahead, eps, chi and radius; they differ in the variance of the
weights, and in cost.

The paper weighs by the rate of continuous time instead, dA = (d_t r_t + b . grad r_t) dt, which for
the flow map's own look-ahead X_{t,1} and l_t = t is scale * r(X_{t,1}(x_t)) itself (PathWeights).
That holds for steps that resolve the gradient, and none does where the map's landing point all but
jumps.

Reference: Sabour et al. 2025, arXiv 2511.22688.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.annotations import Extended
from steer.flow_map import FlowMap
from steer.lookahead import Lookahead, MapJump
from steer.resampling import Scheme, effective_sample_size, log_mean_exp, systematic, weighted_mean
from steer.samplers.base import Claim, Result, Stepwise
from steer.samplers.run import Run
from steer.samplers.sde import (
    NoiseLevel,
    claim_with_noise,
    copies_separate,
    noise_level,
)
from steer.samplers.smc.annealing import Annealing, LevelFunction, as_annealing, proportional
from steer.samplers.smc.degeneracy import warn_of_degeneracy
from steer.samplers.smc.incremental_weights import Proposal, TransitionWeights, Weighting
from steer.samplers.smc.particles import (
    Particles,
    copied,
    moved_to_log_z,
    particles_at,
    weight_variability,
)
from steer.tilt import Tilt
from steer.value import require_gradient

__all__ = ["TrajectoryTilting"]

INSTEAD = "UnguidedTilting or BestOfN"


class TrajectoryTilting(Stepwise[Particles]):
    """FMTT with resampling inside each prompt; exact as steps and particles grow.

    At finite steps the law is that of the unguided chain, `Sde(steps, eps)`, tilted, for every
    look-ahead: the discretisation error is that chain's own.

    The final weights are part of the result: averages under the tilted law weigh by `log_w`. With
    `resample_below=0` the particles do not interact, and x alone is guidance without correction.

    The trace has, per step, the annealing "level", the effective sample size "ess", whether a
    prompt was "resampled", the weighted mean "reward" of the look-ahead, and how uneven the step
    made the weights: "thermodynamic_length" sd(dA), whose sum is, with path weights and no extra
    drift, int sqrt(Var dA/dt) dt; and "total_discrepancy" log(1 + CV^2) of exp(dA).

    Args:
        steps: Euler-Maruyama steps.
        lookahead: where x_t will land; MapJump() by default.
        resample_below: resample a prompt when its effective sample size falls below this fraction
            of its particles.
        eps: the noise level, as in Sde: a factor of sigma, or a function of t.
        chi: extra drift along grad r_t, weighted accordingly: a factor of eps, or a function of t;
            none by default, nor in a last step without noise.
        annealing: l_t, a function of t that ends at 1; 1 for all of the tilt from the start; or
            Tempering().
        weighting: TransitionWeights() by default; ReversalWeights(); or PathWeights(), for
            look-aheads that do not draw.
        trust_radius: longest kick of guidance in one step, in standard deviations of the step's
            noise, for each sample; math.inf for none. 1 by default, none with PathWeights.
        resampling: one of steer.resampling.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.
        film: of how many particles of each prompt, the heaviest at the time, the trace keeps the
            look-ahead, every `film_every` steps.
    """

    claim: Claim = "exact"
    needs_gradient = True

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        resample_below: float = 0.5,
        *,
        eps: float | NoiseLevel = 1.0,
        chi: float | Callable[[float], float] = 0.0,
        annealing: float | LevelFunction | Annealing = proportional,
        weighting: Weighting | None = None,
        trust_radius: Extended | None = None,
        resampling: Scheme = systematic,
        max_batch: int | None = None,
        film: int = 0,
        film_every: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if not 0 <= resample_below <= 1:
            raise ValueError(
                f"resample_below is a fraction of the particles, in [0, 1]; got {resample_below}"
            )
        self.lookahead = lookahead or MapJump()
        self.weighting = weighting or TransitionWeights()
        if self.lookahead.random and not self.weighting.allows_random:
            raise ValueError(
                f"{type(self.weighting).__name__} need one function of (x, t), and this look-ahead"
                " draws: use TransitionWeights()"
            )
        self.resample_below = resample_below
        self.eps = eps
        self.chi = chi
        self.annealing = as_annealing(annealing)
        self.resampling = resampling
        self.trust_radius = self._checked_radius(trust_radius)
        self.film = film
        self.film_every = film_every or max(steps // 8, 1)

    def claim_on(self, flow_map: FlowMap) -> Claim:
        claim = claim_with_noise(flow_map, self.eps, self.times())
        biased = claim != "exact" and self.weighting.assumes_marginal_score
        return "biased" if biased else claim

    # --- the loop -------------------------------------------------------------------------------
    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Particles:
        self.check(run.require_tilt(self, "Sde"))
        nothing = torch.zeros(run.prompts, run.particles, dtype=torch.float64, device=run.device)
        now = self.look(run, x, 0.0, nothing, nothing[:, 0])
        now = now._replace(level=torch.full_like(now.level, self.annealing.initial))
        return now._replace(log_w=run.by_prompt(now.tilt))

    def step(self, run: Run, before: Particles, s: float, t: float) -> Particles:
        proposal = self.propose(run, before, s, t)
        after = self.look(run, proposal.x, t, before.log_w, before.log_z)
        after = self.anneal(run, before, after, proposal)
        increments = self.weigh(run, before, after, proposal)
        after = after._replace(log_w=before.log_w + increments)
        chosen = self.degenerate(run, after, t)
        run.record(**self.diagnostics(run, before, after, proposal, increments, chosen))
        return self.resample(run, after, chosen)

    def finish(self, run: Run, last: Particles) -> Result:
        log_z = last.log_z + log_mean_exp(last.log_w)
        return Result(run.by_prompt(last.x), last.log_w, log_z, run.by_prompt(last.ahead.value))

    def check(self, tilt: Tilt) -> None:
        """Raises ValueError for a reward that this method cannot follow."""
        if self.needs_gradient:
            require_gradient(tilt, INSTEAD)

    # --- its phases -----------------------------------------------------------------------------
    def propose(self, run: Run, now: Particles, s: float, t: float) -> Proposal:
        """Takes one guided Euler-Maruyama step: x + [b + eps s] h + kick + noise."""
        eps = noise_level(self.eps, run, s, t)
        chi = 0.0 if eps == 0 and t == 1.0 else self.extra_drift(run, s, t, eps)
        if not math.isfinite(chi):
            raise ValueError(f"the extra drift chi must be finite; at t = {s:.4g} it is {chi}")
        noise = (2 * eps * (t - s)) ** 0.5 * run.normal(now.x)
        proposal = Proposal(now.x, noise, s, t, eps, chi, self.trust_radius)
        assert now.ahead.velocity is not None
        drift = now.ahead.velocity + eps * now.score
        x = now.x + (t - s) * drift + proposal.kick(now.gradient) + noise
        return proposal._replace(x=x)

    def look(self, run: Run, x: Tensor, t: float, log_w: Tensor, log_z: Tensor) -> Particles:
        """Looks ahead from every particle: value, velocity, gradient and, if needed, rate."""
        rate = self.weighting.needs_rate and not self.lookahead.follows(run.flow_map)
        ahead = run.value(
            self.lookahead,
            x,
            t,
            velocity=True,
            gradient=True,
            time_derivative=rate,
            instead=INSTEAD,
        )
        return particles_at(run, x, t, ahead, log_w, log_z)

    def anneal(
        self, run: Run, before: Particles, after: Particles, proposal: Proposal
    ) -> Particles:
        """Sets the annealing level of every prompt at the new time."""

        def at(level: Tensor) -> Particles:
            return after._replace(level=level.repeat_interleave(run.particles))

        def log_w(level: Tensor) -> Tensor:
            return before.log_w + self.weigh(run, before, at(level), proposal)

        level = run.by_prompt(before.level)[:, 0]
        return at(self.annealing(log_w, level, proposal.s, proposal.t))

    def weigh(
        self, run: Run, before: Particles, after: Particles, proposal: Proposal
    ) -> Float[Tensor, "p n"]:
        """Computes the increments of log weight."""
        return run.by_prompt(self.weighting(before, after, proposal))

    def degenerate(self, run: Run, now: Particles, t: float) -> Bool[Tensor, "p"]:
        """Chooses the prompts to resample: uneven weights, and noise ahead to separate copies."""
        warn_of_degeneracy(run, now.log_w, t)
        chosen = effective_sample_size(now.log_w) < self.resample_below * run.particles
        if chosen.any() and not copies_separate(self.eps, run, self.times(), t):
            return torch.zeros_like(chosen)
        return chosen

    def resample(self, run: Run, now: Particles, chosen: Bool[Tensor, "p"]) -> Particles:
        """Resamples the chosen prompts by their weights, whose mean moves into log Z."""
        if not chosen.any():
            return now
        ancestors = run.ancestors(self.resampling, now.log_w, chosen)
        log_w, log_z = moved_to_log_z(now.log_w, now.log_z, chosen)
        return copied(run, now, ancestors)._replace(log_w=log_w, log_z=log_z)

    # --- settings and the trace -----------------------------------------------------------------
    def extra_drift(self, run: Run, s: float, t: float, eps: float) -> float:
        """Evaluates chi for the step from s to t."""
        return float(self.chi(s)) if callable(self.chi) else self.chi * eps

    def diagnostics(
        self,
        run: Run,
        before: Particles,
        after: Particles,
        proposal: Proposal,
        increments: Float[Tensor, "p n"],
        chosen: Bool[Tensor, "p"],
    ) -> dict[str, Tensor]:
        """Computes what the trace keeps of a step, each (P,), and the film where one is due."""
        length, discrepancy = weight_variability(before.log_w, increments)
        if run.steps == 0:  # the weights given by the initial level count as a step too
            first = weight_variability(torch.zeros_like(before.log_w), before.log_w)
            length = length + first[0]
            discrepancy = discrepancy + first[1]
        return {
            "t": torch.as_tensor(proposal.t),
            "level": run.by_prompt(after.level)[:, 0],
            "thermodynamic_length": length,
            "total_discrepancy": discrepancy,
            "ess": effective_sample_size(after.log_w),
            "resampled": chosen,
            "reward": weighted_mean(after.log_w, run.by_prompt(after.ahead.reward)),
            **self.leading(run, after, after.log_w, proposal.t),
        }

    def leading(
        self, run: Run, now: Particles, rank: Float[Tensor, "p n"], t: float
    ) -> dict[str, Tensor]:
        """Selects the guesses of the highest-ranked particles, where the film is due."""
        due = (run.steps + 1) % self.film_every == 0 or t == 1.0
        if not self.film or not due:
            return {}
        order = rank.argsort(dim=1, descending=True, stable=True)[:, : self.film]
        film = run.of_particles(run.by_prompt(now.ahead.guess), order)
        return {"film": film, "film_t": torch.as_tensor(t)}

    def _checked_radius(self, asked: float | None) -> float:
        if asked is None:
            return 1.0 if self.weighting.allows_truncation else math.inf
        if not asked > 0:
            raise ValueError(
                f"trust_radius is a number of standard deviations, above 0; got {asked}"
            )
        if asked < math.inf and not self.weighting.allows_truncation:
            raise ValueError(
                "PathWeights weigh the whole gradient: drop trust_radius, or use"
                " TransitionWeights()"
            )
        return asked
