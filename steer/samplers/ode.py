"""The probability flow, step by step: dx/dt = b_t(x)."""

from torch import Tensor

from steer.conditions import Cond
from steer.interpolant import batch_time
from steer.samplers.base import Result, Run, Stepwise, importance_weighted
from steer.solvers import Euler, Solver

__all__ = ["Ode"]


class Ode(Stepwise[Tensor]):
    """Follows the velocity of the map from noise to data; deterministic.

    Args:
        steps: solver steps.
        solver: Euler() by default, one evaluation a step.
        max_batch: as in Stepwise.
    """

    claim = "exact"
    deterministic = True

    def __init__(self, steps: int = 50, solver: Solver | None = None, max_batch: int | None = None):
        super().__init__(steps, max_batch)
        self.solver = solver or Euler()

    def start(self, run: Run, x: Tensor) -> Tensor:
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        def advance(x: Tensor, cond: Cond) -> Tensor:
            at, h = batch_time(s, x), batch_time(t - s, x)
            return self.solver.step(lambda x, t: run.flow_map.velocity(x, t, cond), x, at, h)

        run.record(t=t)
        return run.in_batches(advance, x)

    def finish(self, run: Run, x: Tensor) -> Result:
        return importance_weighted(run, x)
