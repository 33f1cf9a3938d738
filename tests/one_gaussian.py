"""N(MEAN, STD^2 I), whose flow map is a closed form along every path: the whitened point stays
where it is.
"""

import torch

from steer import counting
from steer.analytic import GaussianMixture
from steer.interpolant import batch_time

MEAN, STD = torch.tensor([[1.0, -2.0]], dtype=torch.float64), 0.5


def flow(schedule, x, s, t, mean=MEAN):
    """X_{s,t}(x) = alpha_t m + (rho_t / rho_s) (x - alpha_s m), with rho^2 = alpha^2 STD^2 +
    sigma^2 the variance of x_t.
    """
    (a, b, *_), (c, d, *_) = (
        (c[:, None] for c in schedule.coefficients(batch_time(r, x))) for r in (s, t)
    )
    spread = torch.sqrt((c**2 * STD**2 + d**2) / (a**2 * STD**2 + b**2))
    return c * mean.to(x) + spread * (x - a * mean.to(x))


class OneGaussian(GaussianMixture):
    """The exact flow map of one Gaussian, in closed form; records the times of its jumps."""

    def __init__(self, schedule):
        super().__init__(MEAN, STD, schedule=schedule)
        self.asked = []

    def forward(self, x, s, t, cond=None):
        self.asked += [batch_time(s, x), batch_time(t, x)]
        return counting.network(flow(self.schedule, x, s, t))
