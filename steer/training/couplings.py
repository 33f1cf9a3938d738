"""Couplings of noise and data within a batch.

By default any noise goes with any data; an optimal-transport matching makes paths straighter.

References: Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2024, arXiv 2302.00482; Flamary et
al. 2021, JMLR 22(78) (POT).
"""

import importlib.util
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.annotations import Extended
from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss, Objective

__all__ = ["OptimalTransport"]

ITERATIONS = 2000  # of Sinkhorn, at most
UNEVEN = 0.01  # how far the plan's rows and columns may be from even


class OptimalTransport(Objective):
    """Another objective, its batch's noise matched to its data by optimal transport.

    The plan has the least mean |x0 - x1|^2. Without entropy it is a matching, found exactly. With
    it, the plan is Sinkhorn's, by POT, and every x1 draws its noise from its row: less sure of the
    match, as a Schroedinger bridge is.

    Each x1 still meets N(0, I) noise on average, so every objective keeps its minimiser's
    distribution at t = 1, but the path of distributions is another one: x0 and x1 are no longer
    independent, the denoiser is that of the matched pairs, and conversions between velocity and
    score (`FlowMap.score`, the Sde, FMTT's noise) hold only for independent pairs. Use it where
    samples are made by the flow alone. Matching looks at x, not at conditions: with conditions it
    biases which noise a class sees.

    Args:
        objective: what is trained on the matched batch.
        entropy: weight of the plan's entropy, in units of the batch's mean |x0 - x1|^2; 0 for none,
            infinite for no match.

    Raises:
        ValueError: a negative entropy, or one that needs POT where it is not installed; when
            called, an entropy at which Sinkhorn does not converge.
    """

    def __init__(self, objective: Objective, entropy: Extended = 0.0):
        super().__init__()
        if not isinstance(entropy, int | float) or not entropy >= 0:
            raise ValueError(f"entropy is a number, at least 0; got {entropy!r}")
        if 0 < entropy < math.inf and importlib.util.find_spec("ot") is None:
            raise ValueError(
                "a plan with entropy is found by POT; pip install pot, or leave entropy at 0"
            )
        self.objective = objective
        self.guidance = objective.guidance
        self.entropy = entropy

    @property
    def learns_from(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.objective.learns_from

    def forward(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        if self.entropy < math.inf:
            x0 = x0[self.match(x0, x1, generator)]
        return self.objective(flow_map, x0, x1, cond, generator, step)

    def match(
        self,
        x0: Float[Tensor, "b *shape"],
        x1: Float[Tensor, "b *shape"],
        generator: torch.Generator,
    ) -> Int[Tensor, "b"]:
        """Finds the index of the x0 that each x1 goes with."""
        cost = torch.cdist(x1.flatten(1).double(), x0.flatten(1).double()).square()
        if self.entropy == 0:
            from scipy.optimize import linear_sum_assignment

            return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=x0.device)
        plan = self.sinkhorn(cost).to(generator.device)
        return torch.multinomial(plan, 1, generator=generator)[:, 0].to(x0.device)

    def sinkhorn(self, cost: Float[Tensor, "b b"]) -> Float[Tensor, "b b"]:
        """Computes the plan with entropy. Raises ValueError if it does not converge."""
        import ot

        scale = float(cost.mean()) or 1.0
        plan, log = ot.sinkhorn(
            [],
            [],
            cost / scale,
            self.entropy,
            "sinkhorn_stabilized",
            numItermax=ITERATIONS,
            warn=False,
            log=True,
        )
        if not log["err"][-1] < UNEVEN / len(plan):
            raise ValueError(
                f"Sinkhorn's plan did not converge in {ITERATIONS} iterations;"
                f" raise entropy={self.entropy:g}, or set 0"
            )
        return plan
