"""Which noise goes with which data: by default any; within a batch, an optimal-transport matching makes paths straighter.

References: Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2024, arXiv 2302.00482.
"""

import torch
from torch import Tensor

from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss, Objective


class OptimalTransport(Objective):
    """Another objective on the batch with its noise matched to its data, minimising the sum of |x0 - x1|^2 exactly.

    Each x1 still meets N(0, I) noise on average, so every objective keeps its minimiser's law at t = 1, but the path of laws
    is another one: x0 and x1 are no longer independent, the denoiser is that of the matched pairs, and conversions between
    velocity and score (`FlowMap.score`, the Sde, FMTT's noise) hold only for independent pairs. Use it where samples are
    made by the flow alone. Matching looks at x, not at conditions: with conditions it biases which noise a class sees.

    Args:
        objective: what is trained on the matched batch.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective, self.guidance = objective, objective.guidance

    def forward(
        self, flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond, generator: torch.Generator, step: int
    ) -> Loss:
        from scipy.optimize import linear_sum_assignment

        cost = torch.cdist(x1.flatten(1).double(), x0.flatten(1).double()).square()
        _, noise = linear_sum_assignment(cost.cpu().numpy())
        return self.objective(flow_map, x0[torch.as_tensor(noise, device=x0.device)], x1, cond, generator, step)
