"""Sequential Monte Carlo guided by the value V_t, weighted by the error of its estimate.

    dx = [b + c_t grad V_t + eps (s + grad V_t)] dt + sqrt(2 eps) dW,          targets p_t exp(V_t),

with V_t(x) = log E[exp(scale r(X_1)) | x_t = x] from draws of p(x1 | x_t). The target at t is then
the noised tilted law itself, the dynamics its own, and with the exact value no weight ever changes.
With estimates of it, V_{t'} - V_t and the transitions forwards and backwards make up for the error,
telescoping over the path to scale * r at its end.

References: Holderrieth et al. 2026, arXiv 2602.05993 (Diamond Maps: weights V_{t'} - V_t); Meta
Flow Maps, 2026, arXiv 2601.14430.
"""

from collections.abc import Callable
from typing import Any

from steer.lookahead import Lookahead, Posterior
from steer.samplers.run import Run
from steer.samplers.smc.incremental_weights import ReversalWeights
from steer.samplers.smc.trajectory_tilting import TrajectoryTilting

__all__ = ["ValueSmc"]


class ValueSmc(TrajectoryTilting):
    """Value-guided particles with telescoping weights; exact as steps and particles grow.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: draws from p(x1 | x_t): Posterior(16) by default, for a map that has its own;
            Glass() for any velocity.
        resample_below, eps, more: as in TrajectoryTilting; annealing, chi and weighting are given
            here.

    Raises:
        ValueError: for a step before the last without noise, which has no transitions to weigh by.
    """

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        resample_below: float = 0.5,
        eps: float | Callable[[float], float] = 1.0,
        **more: Any,
    ):
        super().__init__(
            steps,
            lookahead or Posterior(16),
            resample_below,
            eps=eps,
            annealing=1.0,
            weighting=ReversalWeights(),
            **more,
        )

    def extra_drift(self, run: Run, s: float, t: float, eps: float) -> float:
        """Evaluates c_t in the middle of the step, since it is infinite at t = 0."""
        return float(run.flow_map.schedule.c_t((s + t) / 2))
