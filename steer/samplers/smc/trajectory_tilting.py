"""Flow Map Trajectory Tilting (FMTT): bend the path toward where it will land, and weigh what
bending costs.

The target moves from noise to the tilt, p_t exp(r_t) with r_t = l_t V_t, l_t = t unless another
level is asked for, and V_t = scale * r at the look-ahead of x_t:

    dx = [b + eps (s + grad r_t) + chi grad r_t] dt + sqrt(2 eps) dW.

Each step is an Euler-Maruyama step whose kick, (eps + chi) h grad r_t, stays inside a trust region
of so many standard deviations of the noise; it is weighed by exp(r_t(x') - r_s(x)) and the ratio of
two Gaussians, the unguided step over the guided one. That is exact at any step size, relative to
the unguided chain, for every look-ahead, eps, chi and radius; they differ in the variance of the
weights, and in cost.

The paper weighs by the rate of continuous time instead, dA = (d_t r_t + b . grad r_t) dt, which for
the flow map's own look-ahead X_{t,1} and l_t = t is scale * r(X_{t,1}(x_t)) itself (PathWeights).
It holds for steps that resolve the gradient, and next to the watersheds of the noise, where the
map's jump all but breaks, none does.

Reference: Sabour et al. 2025, arXiv 2511.22688.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import Extended
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Schedule
from steer.lookahead import Lookahead, MapJump
from steer.resampling import Scheme, effective_sample_size, log_mean_exp, systematic, weighted_mean
from steer.samplers.base import Claim, Result, Run, Stepwise
from steer.samplers.looking import Landed
from steer.samplers.sde import NoiseLevel, claim_with_noise, noise_level, will_part
from steer.samplers.smc.annealing import Level, Tempering, constant, proportional
from steer.samplers.smc.constraints import softened
from steer.samplers.smc.degeneracy import warn_of_collapse
from steer.samplers.smc.incremental_weights import (
    Glance,
    Move,
    PathWeights,
    TransitionWeights,
    Weighting,
)
from steer.samplers.smc.particles import Population, Search, descend, unevenness
from steer.tilt import Value
from steer.value import Asked, look, refuse_without_gradient, rise

__all__ = ["TrajectoryTilting"]


class TrajectoryTilting(Stepwise[Population]):
    """FMTT with resampling inside each prompt. Exact as steps and particles grow, whatever the
    look-ahead.

    At fewer steps the law is that of the unguided chain, `Sde(steps, eps)`, tilted: the error of
    the step is that chain's own.

    The final weights are part of the result: averages under the tilted law weigh by `log_w`. With
    `resample_below=0` the
    particles never meet, and x alone is guidance without correction.

    The trace has the "level" too, and how uneven each step made the weights: the "length" sd(dA),
    whose sum over the steps is, with path weights and no extra drift, the thermodynamic length int
    sqrt(Var dA/dt) dt; and the "discrepancy" log(1 + CV^2) of exp(dA), whose sum is the total
    discrepancy.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: where x_t will land; MapJump() by default.
        resample_below: resample a prompt when its effective sample size falls below this fraction
            of its particles.
        eps: the noise level, as in Sde: a factor of sigma, or a function of t.
        chi: extra drift along grad r_t, weighted accordingly: a factor of eps, or a function of t;
            none by default, nor in a last step without noise.
        level: l_t, a function of t that ends at 1, or 1 for all of the tilt from the start, or
            Tempering().
        weighting: TransitionWeights() by default; ReversalWeights(); or PathWeights(), for
            look-aheads that do not draw.
        trust_radius: the longest kick of guidance in one step, in standard deviations of the step's
            noise, for each sample; math.inf for none. 1 by default; none for a search, which does
            not weigh, nor with PathWeights, which cannot.
        guide: whether grad r_t bends the drift. Without, nothing needs a gradient: the plain
            dynamics, reweighed by TransitionWeights (eps and chi of the guidance are then zero),
            which suits black-box rewards.
        resampling: one of steer.resampling.
        search: keep the best instead of weighing; then the claim is "maximiser" and there is no log
            Z.
        max_batch: the most samples per evaluation. A look-ahead that draws gets other draws of the
            same law with another.
        film: of how many particles of each prompt, the heaviest at the time, the trace keeps the
            look-ahead, at every `film_every` steps.
    """

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        resample_below: float = 0.5,
        *,
        eps: float | NoiseLevel = 1.0,
        chi: float | Callable[[float], float] | None = None,
        level: float | Level | Tempering = proportional,
        weighting: Weighting | None = None,
        trust_radius: Extended | None = None,
        guide: bool = True,
        resampling: Scheme = systematic,
        search: Search | None = None,
        max_batch: int | None = None,
        film: int = 0,
        film_every: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if not 0 <= resample_below <= 1:
            raise ValueError(
                f"resample_below is a fraction of the particles, in [0, 1]; got {resample_below}"
            )
        if not guide and (chi is not None or weighting is not None):
            raise ValueError(
                "guide=False leaves no drift to weigh: drop chi and weighting, or guide"
            )
        self.lookahead, self.resample_below = lookahead or MapJump(), resample_below
        if isinstance(level, int | float):
            level = partial(constant, float(level))
        if not isinstance(level, Tempering) and abs(level(1.0) - 1) > 1e-12:
            raise ValueError(
                f"a level ends at 1, where all of the tilt is asked for; got {level(1.0)} at t = 1"
            )
        if isinstance(level, Tempering) and search is not None:
            raise ValueError(
                "a search does not weigh, so there is nothing to temper by: drop level or search"
            )
        self.eps, self.chi, self.guide, self.level = eps, chi, guide, level
        if isinstance(weighting, PathWeights) and self.lookahead.random:
            raise ValueError(
                "PathWeights follow one function of (x, t), and this look-ahead draws: use TransitionWeights()"
            )
        self.weighting = weighting or TransitionWeights()
        self.resampling, self.search = resampling, search
        self.trust_radius = self.radius(trust_radius)
        self.film, self.film_every = film, film_every or max(steps // 8, 1)

    @property
    def claim(self) -> Claim:  # type: ignore[override]
        return "exact" if self.search is None else "maximiser"

    def claim_on(self, flow_map: FlowMap) -> Claim:
        if self.search is not None:
            return "maximiser"
        claim = claim_with_noise(flow_map, self.eps, self.times())
        return "biased" if claim != "exact" and self.weighting.needs_marginals else claim

    # --- the loop --------------------------------------------------------------------------------
    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Population:
        if run.tilt is None:
            raise ValueError(
                "TrajectoryTilting follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        if self.guide:
            refuse_without_gradient(run.tilt, "TrajectoryTilting(guide=False) or BestOfN")
        level = 0.0 if isinstance(self.level, Tempering) else self.level_at(self.level, 0.0)
        glance = self.look(run, x, 0.0)
        glance = glance.at(torch.full_like(glance.value, level))
        log_w = run.by_prompt(
            glance.tilt if self.search is None else torch.zeros_like(glance.value)
        )
        return Population(x, glance, log_w, torch.zeros_like(log_w[:, 0]), 0)

    def step(self, run: Run, now: Population, s: float, t: float) -> Population:
        move = self.draw(run, now.x, s, t)
        x = self.advance(run, now, move)
        move = move._replace(step=x - now.x)
        glance = self.raised(run, now, self.look(run, x, t), move)
        if self.search is not None:
            return self.select(run, Population(x, glance, now.log_w, now.log_z, now.steps + 1), t)
        gain = run.by_prompt(self.weighting(now.glance, glance, move))
        length, discrepancy = unevenness(now.log_w, gain)
        if now.steps == 0:  # the weights that the first level gave at once are a step too
            first = unevenness(torch.zeros_like(now.log_w), now.log_w)
            length, discrepancy = length + first[0], discrepancy + first[1]
        run.record(level=run.by_prompt(glance.level)[:, 0], length=length, discrepancy=discrepancy)
        return self.select(
            run, Population(x, glance, now.log_w + gain, now.log_z, now.steps + 1), t
        )

    def finish(self, run: Run, last: Population) -> Result:
        log_z = last.log_z + log_mean_exp(last.log_w) if self.search is None else None
        return Result(run.by_prompt(last.x), last.log_w, log_z, run.by_prompt(last.glance.value))

    # --- its parts -------------------------------------------------------------------------------
    def draw(self, run: Run, x: Tensor, s: float, t: float) -> Move:
        """The noise of a step, and its two coefficients."""
        eps = noise_level(self.eps, run, s, t)
        chi = 0.0 if eps == 0 and t == 1.0 else self.extra(run, s, t, eps)
        if not math.isfinite(chi):
            raise ValueError(f"the extra drift chi must be finite; at t = {s:.4g} it is {chi}")
        return Move(
            s,
            t,
            eps,
            chi,
            (2 * eps * (t - s)) ** 0.5 * run.normal(x),
            trust_radius=self.trust_radius,
        )

    def radius(self, asked: float | None) -> float:
        """The trust radius, checked."""
        weighs_any = self.weighting.any_kick and self.search is None
        if asked is None:
            return 1.0 if weighs_any else math.inf
        if not asked > 0:
            raise ValueError(
                f"trust_radius is a number of standard deviations, above 0; got {asked}"
            )
        if asked < math.inf and not self.weighting.any_kick:
            raise ValueError(
                "PathWeights weigh the whole gradient: drop trust_radius, or use TransitionWeights()"
            )
        return asked

    def extra(self, run: Run, s: float, t: float, eps: float) -> float:
        """The extra drift of a step from s to t."""
        if self.chi is None:
            return 0.0
        return float(self.chi(s)) if callable(self.chi) else self.chi * eps

    def level_at(self, level: Level, t: float) -> float:
        """l_t, checked."""
        if not math.isfinite(found := float(level(t))):
            raise ValueError(f"a level must be finite; at t = {t:.4g} it is {found}")
        return found

    def raised(self, run: Run, now: Population, seen: Glance, move: Move) -> Glance:
        """What is seen after a step, at the level that is asked for then."""
        if not isinstance(self.level, Tempering) or move.t == 1.0:
            level = 1.0 if isinstance(self.level, Tempering) else self.level_at(self.level, move.t)
            return seen.at(torch.full_like(seen.value, level))

        def at(level: Tensor) -> Glance:
            return seen.at(level.repeat_interleave(run.particles))

        def log_w(level: Tensor) -> Tensor:
            return now.log_w + run.by_prompt(self.weighting(now.glance, at(level), move))

        return at(self.level(log_w, run.by_prompt(now.glance.level)[:, 0], move.s, move.t))

    def advance(self, run: Run, now: Population, move: Move) -> Tensor:
        """x + [b + eps s] h + kick + noise."""
        glance, h = now.glance, move.t - move.s
        drift = glance.velocity + move.eps * glance.score
        return now.x + h * drift + move.kick(glance.gradient) + move.noise

    def look(self, run: Run, x: Float[Tensor, "b *shape"], t: float) -> Glance:
        """One look ahead from every particle, at most max_batch at a time."""
        tilt = run.tilt
        assert tilt is not None
        still = not self.weighting.needs_rate or self.lookahead.follows(
            run.flow_map
        )  # no rate is asked, or it is 0
        landed = t == 1.0 and still
        lookahead = Landed() if landed else self.lookahead

        def part(x: Tensor, scale: Tensor, prompt: Tensor, cond: Cond) -> Glance:
            value = Value(tilt.with_scale(scale), lookahead)
            asked = Asked(run.flow_map, x, t, cond, run.generators[int(prompt[0])])
            if not self.guide or landed:
                view = look(value, asked, velocity=not landed)
            else:
                view = rise(
                    value, asked, "TrajectoryTilting(guide=False) or BestOfN", in_time=not still
                )
            velocity = torch.zeros_like(x) if view.velocity is None else view.velocity
            along = 0.0 if still else (view.slope.double() * velocity.double()).flatten(1).sum(1)
            rate, level = view.in_time + along, torch.ones_like(view.value)
            score = score_of(run.flow_map.schedule, velocity, x, t)
            return Glance(
                view.value, velocity, score, view.slope, rate, view.reward, view.guess, level
            )

        glance = self.in_batches(
            part, run, x, tilt.scale_for(len(x)), run.prompt, apart=lookahead.random
        )
        if self.search is not None:
            return glance
        return glance._replace(value=softened(run.by_prompt(glance.value), t).flatten())

    def select(self, run: Run, now: Population, t: float) -> Population:
        """Resampling where the weights of a prompt have grown uneven, or the search's selection;
        not where copies would end as twins.
        """
        warn_of_collapse(run, now.log_w, t)
        if self.search is not None:
            chosen = torch.full(
                (run.prompts,), now.steps % self.search.every == 0, device=run.device
            )
        else:
            chosen = effective_sample_size(now.log_w) < self.resample_below * run.particles
        if chosen.any() and not will_part(self.eps, run, self.times(), t):
            chosen = torch.zeros_like(chosen)
        now = self.record(run, now, t, chosen)
        if not chosen.any():
            return now
        if self.search is not None:
            return descend(run, now, self.search(run.by_prompt(now.glance.value)), chosen)
        return descend(run, now, run.ancestors(self.resampling, now.log_w, chosen), chosen)

    def record(self, run: Run, now: Population, t: float, chosen: Tensor) -> Population:
        """Keeps the figures of this step, and the film."""
        reward = weighted_mean(now.log_w, run.by_prompt(now.glance.reward))
        run.record(t=t, ess=effective_sample_size(now.log_w), resampled=chosen, reward=reward)
        if self.film and (now.steps % self.film_every == 0 or t == 1.0):
            rank = now.log_w if self.search is None else run.by_prompt(now.glance.value)
            leading = rank.argsort(dim=1, descending=True, stable=True)[:, : self.film]
            rows = torch.arange(run.prompts, device=run.device)[:, None]
            run.record(film=run.by_prompt(now.glance.guess)[rows, leading], film_t=t)
        return now


def score_of(schedule: Schedule, velocity: Tensor, x: Tensor, t: float) -> Tensor:
    """The score that goes with a velocity; zero at t = 1."""
    return (
        torch.zeros_like(x)
        if t == 1.0
        else schedule.score(schedule.from_velocity(velocity, x, t), x, t)
    )
