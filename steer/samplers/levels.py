"""How much of the tilt is asked for on the way: levels l_t, from what noise can say to 1, in r_t = l_t V_t.

A level may be a function of the time, or chosen as the particles go so that no step makes their weights too uneven.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from steer.resampling import effective_sample_size

Level = Callable[[float], float]


def proportional(t: float) -> float:
    """l_t = t, the path of trajectory tilting."""
    return t


def whole(t: float) -> float:
    """l_t = 1: all of the tilt from the start, as in twisted Monte Carlo and on the path of values."""
    return 1.0


class Rising:
    """l_t = ((1 + rate)^t - 1) / rate: slow first, the faster the larger the rate.

    References: the tempering of Kim et al. 2025, arXiv 2501.05803, scaled to end at 1 whatever the steps.
    """

    def __init__(self, rate: float = 8.0):
        if not rate > 0:
            raise ValueError(f"rate must be positive; got {rate}. For a straight rise leave the level out")
        self.rate = rate

    def __call__(self, t: float) -> float:
        return ((1 + self.rate) ** t - 1) / self.rate


class Tempering:
    """At each step the highest level, at most 1, at which the step keeps a fraction of the effective sample size.

    The level is found by bisection for each prompt, from the weights with which its particles would leave the step; the last
    step always ends at 1, whatever that costs. Depending on the particles, it biases log Z by O(1 / particles).

    Args:
        keep: the fraction, of the effective sample size that the same step would leave without raising the level.

    References: Del Moral, Doucet & Jasra 2012, doi 10.1007/s11222-011-9271-y.
    """

    ROUNDS = 30

    def __init__(self, keep: float = 0.95):
        if not 0 < keep < 1:
            raise ValueError(f"Tempering keeps a fraction of the effective sample size, in (0, 1); got keep={keep}")
        self.keep = keep

    def __call__(
        self, log_w: Callable[[Float[Tensor, "p"]], Float[Tensor, "p n"]], low: Float[Tensor, "p"]
    ) -> Float[Tensor, "p"]:
        """The level of each prompt.

        Args:
            log_w: levels -> the log weights that the particles would have.
            low: the levels they come from.
        """
        enough = self.keep * effective_sample_size(log_w(low))

        def bearable(level: Tensor) -> Tensor:
            return effective_sample_size(log_w(level)) >= enough

        high = torch.ones_like(low)
        low = torch.where(bearable(high), high, low)
        for _ in range(self.ROUNDS):
            middle = (low + high) / 2
            fits = bearable(middle)
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low
