"""CTM's two legs: the semigroup notion with a solver's first leg, compared where both land at t =
1.

    L = E |X'_{t,1}(X_{s,t}(x_s)) - X'_{t,1}(X'_{r,t}(x_r))|^2,      x_r = the held velocity's solution from x_s,

with X' the held jumps and r uniform in [s, t]. The gradient reaches X_{s,t} through the last,
frozen jump, which puts all pairs on one scale. From a frozen teacher's velocity and the student's
moving average as X' it is consistency trajectory models without their adversarial and denoising
terms (add `FlowMatching` by Joint for the latter).

Reference: Kim et al. 2024, arXiv 2310.02279.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import OdeMap, ResidualMap
from steer.solvers import Heun, Solver
from steer.training.base import Card, Target, PairObjective, Pairs, mean_square

__all__ = ["TwoLegs"]


class TwoLegs(PairObjective):
    """The squared distance at t = 1 of one jump and of two legs.

    Args:
        steps: solver steps of the first leg.
        solver: of the first leg; Heun() by default.
    """

    card = Card(
        "semigroup",
        "none",
        "both legs, and the last jump's weights",
        "4 F + 2 B (and the solver's)",
    )
    asks = frozenset({"velocity", "jumps"})

    def __init__(self, steps: int = 2, solver: Solver | None = None):
        if steps < 1:
            raise ValueError(f"TwoLegs needs at least one solver step; got steps={steps}")
        self.steps, self.solver = steps, solver or Heun()

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond, x_s = pairs.s, pairs.t, pairs.cond, pairs.at_s(student.schedule)
        r = s + (t - s) * torch.rand(s.shape, generator=generator, device=s.device, dtype=s.dtype)
        with torch.no_grad():
            x_r = OdeMap(target.velocity, student.schedule, self.steps, self.solver)(x_s, s, r, cond)
            two = target.jumps.lookahead(target.jumps(x_r, r, t, cond), t, cond)
        weights = {name: weight.detach() for name, weight in target.jumps.named_parameters()}
        x_t = student(x_s, s, t, cond)
        one = torch.func.functional_call(target.jumps, weights, (x_t, t, torch.ones_like(t), cond))
        return mean_square(one - two)
