"""CTM's two legs: the semigroup property with a solver's first leg, compared at t = 1.

    L = E |X'_{t,1}(X_{s,t}(x_s)) - X'_{t,1}(X'_{r,t}(x_r))|^2,

with X' the target's jumps, r uniform in [s, t] and x_r the solution from x_s along the target's
velocity. The gradient reaches X_{s,t} through the last, frozen jump, which puts all pairs on one
scale. From a frozen teacher's velocity and the student's moving average as X' it is consistency
trajectory models without their adversarial and denoising terms (add `FlowMatching` by Joint for the
latter).

Reference: Kim et al. 2024, arXiv 2310.02279.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import OdeMap, ResidualMap
from steer.solvers import Heun, Solver
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Target, mean_square

__all__ = ["TwoLegs"]


class TwoLegs(PairObjective):
    """The squared distance at t = 1 between one jump and two legs.

    Args:
        steps: solver steps of the first leg.
        solver: of the first leg; Heun() by default.

    Raises:
        ValueError: no solver step.
    """

    card = Card(
        "semigroup",
        "none",
        "both legs, and the last jump's weights",
        "4 F + 2 B (and the solver's)",
    )
    asks = frozenset({"velocity", "jumps"})
    claim: PairClaim = "exact up to the solver"

    def __init__(self, steps: int = 2, solver: Solver | None = None):
        if steps < 1:
            raise ValueError(f"TwoLegs needs at least one solver step; got steps={steps}")
        self.steps = steps
        self.solver = solver or Heun()

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        x_s = pairs.at_s(student.schedule)
        r = s + (t - s) * torch.rand(s.shape, generator=generator, device=s.device, dtype=s.dtype)
        first_leg = OdeMap(target.velocity, student.schedule, self.steps, self.solver)
        with torch.no_grad():
            x_r = first_leg(x_s, s, r, cond)
            two = target.jumps.lookahead(target.jumps(x_r, r, t, cond), t, cond)
        weights = {name: weight.detach() for name, weight in target.jumps.named_parameters()}
        x_t = student(x_s, s, t, cond)
        one = torch.func.functional_call(target.jumps, weights, (x_t, t, torch.ones_like(t), cond))
        return mean_square(one - two)
