"""Guidance by the value, each particle on its own: no weights, no resampling, no population.

    dx = [b + c_t grad V_t + eps (s + grad V_t)] dt + sqrt(2 eps) dW

with V_t(x) = log E[exp(scale r(X_1)) | x_t = x] by a look-ahead. With the exact value this is the
tilted law's own dynamics, deterministic at eps = 0; with draws of p(x1 | x_t) in its place it is
biased by what their log-mean is, and with a single guess by all that a guess leaves out. `ValueSmc`
weighs the same paths.

References: Dhariwal & Nichol 2021, arXiv 2105.05233; Meta Flow Maps, 2026, arXiv 2601.14430.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond
from steer.lookahead import Lookahead, Posterior
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.sde import NoiseLevel, Transition, noise_level
from steer.tilt import Value
from steer.value import Asked, refuse_without_gradient, rise

__all__ = ["ValueGuided"]


class ValueGuided(Stepwise[Tensor]):
    """The value-guided ODE and SDE. Exact as steps grow with the exact value, biased with any
    other.

    At t = 0, c_t is infinite and grad V_t zero; the first step asks for their product in its middle
    instead.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: draws from p(x1 | x_t): Posterior(16) by default, for a map that has its own;
            Glass() for any velocity.
        eps: the noise level, as in Sde: a factor of sigma, or a function of t; 0 follows the ODE.
        max_batch: the most samples per evaluation. A look-ahead that draws gets other draws of the
            same law with another.

    Raises:
        ValueError: when called without a reward, or with one that has no gradient.
    """

    claim = "biased"

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        eps: float | NoiseLevel = 1.0,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        self.lookahead, self.eps = lookahead or Posterior(16), eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Tensor:
        if run.tilt is None:
            raise ValueError(
                "ValueGuided follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        refuse_without_gradient(run.tilt, "Svdd or BestOfN")
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        eps, tilt, schedule = noise_level(self.eps, run, s, t), run.tilt, run.flow_map.schedule
        assert tilt is not None
        at = s or (s + t) / 2
        push = eps + float(schedule.c_t(at))

        def drift(x: Tensor, scale: Tensor, prompt: Tensor, cond: Cond) -> Tensor:
            value = Value(tilt.with_scale(scale), self.lookahead)
            asked = Asked(run.flow_map, x, at, cond, run.generators[int(prompt[0])])
            view = rise(value, asked, "Svdd or BestOfN", in_time=False, velocity=at == s)
            velocity = run.flow_map.velocity(x, s, cond) if view.velocity is None else view.velocity
            score = schedule.score(schedule.from_velocity(velocity, x, s), x, s) if eps else 0.0
            return velocity + push * view.slope + eps * score

        drifts = self.in_batches(
            drift, run, x, tilt.scale_for(len(x)), run.prompt, apart=self.lookahead.random
        )
        run.record(t=t)
        return Transition(x + (t - s) * drifts, (2 * eps * (t - s)) ** 0.5).draw(run)

    def finish(self, run: Run, x: Tensor) -> Result:
        tilt = self.tilt_of(run, x)
        return Result(run.by_prompt(x), torch.zeros_like(tilt), None, tilt)
