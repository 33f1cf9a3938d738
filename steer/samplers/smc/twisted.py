"""Twisted sequential Monte Carlo: TDS and DAS, as settings of trajectory tilting.

The proposal of a step is the Gaussian of the plain dynamics with its mean moved by (its variance) x
grad r_t,

    x' = x + [b + eps s] h + 2 eps h grad r_t + sqrt(2 eps h) e,        r_t = l_t V_t,   V_t = scale * r(E[x1 | x_t]),

and its weight is (plain density / proposal's density) x exp(r_{t'}(x') - r_t(x)). In the words of
`TrajectoryTilting`: an extra drift chi = eps, the denoiser for a look-ahead, and weights by
transitions. Both papers take the variance of their diffusion's own sampler; here eps is free, as
everywhere.

References: Wu et al. 2023, arXiv 2306.17775 (TDS); Kim et al. 2025, arXiv 2501.05803 (DAS).
"""

from collections.abc import Callable
from typing import Any

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.smc.annealing import Level, Rising, Tempering
from steer.samplers.smc.incremental_weights import TransitionWeights
from steer.samplers.smc.trajectory_tilting import TrajectoryTilting

__all__ = ["das", "tds"]

NoiseLevel = Callable[[float], float]


def tds(
    steps: int = 100,
    lookahead: Lookahead | None = None,
    resample_below: float = 0.5,
    eps: float | NoiseLevel = 1.0,
    **more: Any,
) -> TrajectoryTilting:
    """Twisted diffusion sampler: all of the tilt from the start, l_t = 1. Exact as particles and
    steps grow.

    Args:
        steps, lookahead, resample_below, eps, more: as in TrajectoryTilting; Denoiser() by default.
    """
    return _twisted(steps, lookahead, resample_below, eps, 1.0, **more)


def das(
    steps: int = 100,
    lookahead: Lookahead | None = None,
    resample_below: float = 0.5,
    eps: float | NoiseLevel = 1.0,
    level: Level | Tempering | None = None,
    **more: Any,
) -> TrajectoryTilting:
    """Diffusion alignment as sampling: the same, tempered. Exact as particles and steps grow.

    Args:
        steps, lookahead, resample_below, eps, more: as in TrajectoryTilting; Denoiser() by default.
        level: Rising() by default, the paper's exponential; or Tempering(), which looks for it.
    """
    return _twisted(steps, lookahead, resample_below, eps, level or Rising(), **more)


def _twisted(
    steps: int,
    lookahead: Lookahead | None,
    resample_below: float,
    eps: float | NoiseLevel,
    level: float | Level | Tempering,
    **more: Any,
) -> TrajectoryTilting:
    ahead, weighting = lookahead or Denoiser(), TransitionWeights()
    return TrajectoryTilting(
        steps, ahead, resample_below, eps=eps, chi=1.0, level=level, weighting=weighting, **more
    )
