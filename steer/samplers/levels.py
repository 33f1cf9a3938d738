"""How much of the tilt is asked for on the way: levels l_t, from what noise can say to 1, in r_t = l_t V_t.

A level may be a function of the time, or chosen as the particles go by how uneven it would make their weights.
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


def constant(level: float, t: float) -> float:
    """l_t = level. At 1, all of the tilt is asked for from the start, as in twisted Monte Carlo and on the path of values."""
    return level


class Rising:
    """l_t = ((1 + rate)^t - 1) / rate: slow first, the more so the larger the rate.

    The tempering of Kim et al. 2025, arXiv 2501.05803, scaled to end at 1 whatever the steps. Theirs is (1 + g)^k - 1 at step
    k, at most 1; examples with 100 steps and g = .008 have the rate 1.2, those with a larger g a larger one.
    """

    def __init__(self, rate: float = 1.2):
        if not rate > 0:
            raise ValueError(f"rate must be positive; got {rate}. For a straight rise leave the level out")
        self.rate = rate

    def __call__(self, t: float) -> float:
        return ((1 + self.rate) ** t - 1) / self.rate


class Tempering:
    """At each step the highest level at which the step keeps a fraction of the effective sample size, within two bounds.

    The level is found by bisection for each prompt, from the weights with which its particles would leave the step. It does
    not run ahead of a path of its own: early on a blurred look-ahead weighs all particles alike and would bear any level,
    before there is anything to see. And it rises by at least half of what would take it evenly to 1, so that the last step,
    which always ends there, has no more than sqrt(h) left to do. Chosen from the particles, it biases log Z by
    O(1 / particles).

    Args:
        keep: the fraction, of the effective sample size that the same step would leave without raising the level.
        ahead: the highest level at t; t itself by default.

    References: Del Moral, Doucet & Jasra 2012, doi 10.1007/s11222-011-9271-y (the bisection; the bounds are ours).
    """

    ROUNDS = 30

    def __init__(self, keep: float = 0.95, ahead: Level = proportional):
        if not 0 < keep < 1:
            raise ValueError(f"Tempering keeps a fraction of the effective sample size, in (0, 1); got keep={keep}")
        self.keep, self.ahead = keep, ahead

    def __call__(
        self,
        log_w: Callable[[Float[Tensor, "p"]], Float[Tensor, "p n"]],
        level: Float[Tensor, "p"],
        s: float,
        t: float,
    ) -> Float[Tensor, "p"]:
        """The level of each prompt at t.

        Args:
            log_w: levels -> the log weights that the particles would have.
            level: the levels at s.
            s, t: the ends of the step.
        """
        enough = self.keep * effective_sample_size(log_w(level))

        def bearable(level: Tensor) -> Tensor:
            return effective_sample_size(log_w(level)) >= enough

        high = torch.full_like(level, min(max(float(self.ahead(t)), 0.0), 1.0)).maximum(level)
        least = (level + (1 - level) * (t - s) / (1 - s) / 2).minimum(high)
        low = torch.where(bearable(high), high, level)
        for _ in range(self.ROUNDS):
            middle = (low + high) / 2
            fits = bearable(middle)
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low.maximum(least)
