"""Guidance by the value, each particle by itself: no weights, no resampling.

    dx = [b + c_t grad V_t + eps (s + grad V_t)] dt + sqrt(2 eps) dW

with V_t(x) = log E[exp(scale r(X_1)) | x_t = x] by a look-ahead. With the exact value this is the
tilted law's own dynamics, deterministic at eps = 0; with draws of p(x1 | x_t) in its place it is
biased by their log-mean, and with a single guess by the spread it omits. `ValueSmc`
weighs the same paths.

References: Dhariwal & Nichol 2021, arXiv 2105.05233; Meta Flow Maps, 2026, arXiv 2601.14430.
"""

from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Lookahead, Posterior
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, Transition, noise_level, noiseless, score_of
from steer.value import require_gradient

__all__ = ["ValueGuided"]

INSTEAD = "Svdd or BestOfN"


class ValueGuided(Stepwise[Tensor]):
    """The value-guided ODE and SDE; exact as steps grow if the value is, otherwise biased.

    At t = 0, c_t is infinite and grad V_t zero; the first step evaluates their product in its
    middle instead.

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
    needs_gradient = True

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        eps: float | NoiseLevel = 1.0,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        self.lookahead = lookahead or Posterior(16)
        self.eps = eps
        self.deterministic = not self.lookahead.random and noiseless(eps, self.times())

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Tensor:
        require_gradient(run.require_tilt(self, "Sde"), INSTEAD)
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        schedule = run.flow_map.schedule
        eps = noise_level(self.eps, run, s, t)
        at = s or (s + t) / 2  # where grad V is asked: c_0 is infinite
        ahead = run.value(self.lookahead, x, at, velocity=at == s, gradient=True, instead=INSTEAD)
        assert ahead.gradient is not None
        velocity = run.velocity(x, s) if ahead.velocity is None else ahead.velocity
        score = score_of(schedule, velocity, x, s) if eps else 0.0
        drift = velocity + (eps + float(schedule.c_t(at))) * ahead.gradient + eps * score
        run.record(t=t)
        return Transition(x + (t - s) * drift, (2 * eps * (t - s)) ** 0.5).draw(run)

    def finish(self, run: Run, x: Tensor) -> Result:
        return unweighted_result(run, x)
