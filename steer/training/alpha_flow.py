"""alpha-Flow: from flow matching to MeanFlow by a step of size alpha (t - s) in place of d/ds.

    g = (alpha I_s' + (1 - alpha) u_{r,t}(I_s + (r - s) I_s') - u_{s,t}(I_s)) / alpha,
    L_off = E |u_{s,t}(I_s) - sg[u_{s,t}(I_s) + g]|^2,      r = s + alpha (t - s).

alpha = 1 is flow matching at every (s, t), 1/2 a shortcut model's step with the sample's own first
half; as alpha goes to 0, value and gradient tend to MeanFlow's. (The paper writes alpha^-1 |alpha
g|^2, of the same gradient; its value vanishes with alpha, which a weighting by the value would
mistake for a small residual.) In between it is biased: a step along I_s' is not a step along the
flow. So alpha is annealed.

Reference: Zhang et al. 2025, arXiv 2510.20771.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.interpolant import expand
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Target, mean_square
from steer.training.derivatives import SameMasks

__all__ = ["AlphaFlow", "FixedAlpha", "SigmoidAlpha"]


class SigmoidAlpha:
    """alpha(step) from 1 to `last`, along a sigmoid centred between `start` and `end`.

    Args:
        start, end: training steps between which alpha moves; it is constant outside.
        last: where it stays.
        sharpness: of the sigmoid, over the interval.

    Raises:
        ValueError: start and end out of order, or last outside (0, 1].
    """

    def __init__(self, start: int, end: int, last: float = 0.005, sharpness: float = 25.0):
        if not 0 <= start < end or not 0 < last <= 1:
            raise ValueError(
                "SigmoidAlpha needs 0 <= start < end and last in (0, 1];"
                f" got start={start}, end={end}, last={last}"
            )
        self.start = start
        self.end = end
        self.last = last
        self.sharpness = sharpness

    def __call__(self, step: int) -> float:
        place = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0) - 0.5
        alpha = 1 / (1 + math.exp(self.sharpness * place))
        return 1.0 if alpha > 1 - self.last else max(alpha, self.last)


class FixedAlpha:
    """The same alpha at every step."""

    def __init__(self, alpha: float):
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}")
        self.alpha = alpha

    def __call__(self, step: int) -> float:
        return self.alpha


class AlphaFlow(PairObjective):
    """The squared alpha-Flow residual over alpha, at given pairs (s, t).

    Args:
        alpha: step -> alpha in (0, 1], such as SigmoidAlpha(start, end); FixedAlpha(.5) by default.
    """

    card = Card("Eulerian, discrete", "none", "everything but u", "2 F + 1 B")
    asks = frozenset({"data", "jumps"})
    claim: PairClaim = "biased"

    def __init__(self, alpha: SigmoidAlpha | FixedAlpha | None = None):
        self.alpha = alpha or FixedAlpha(0.5)

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        alpha = self.alpha(pairs.step)
        s, t = pairs.s, pairs.t
        x_s = pairs.at_s(student.schedule)
        v = pairs.velocity_at_s(student.schedule)
        masks = SameMasks(x_s)
        goal = v
        if alpha < 1:
            r = s + alpha * (t - s)
            x_r = x_s + expand(r - s, x_s) * v
            with torch.no_grad(), masks:
                ahead = target.jumps.average_velocity(x_r, r, t, pairs.cond)
            goal = alpha * v + (1 - alpha) * ahead
        with masks:
            u = student.average_velocity(x_s, s, t, pairs.cond)
        return mean_square(u - (u + (goal - u) / alpha).detach())
