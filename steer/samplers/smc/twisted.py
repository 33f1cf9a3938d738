"""Twisted sequential Monte Carlo: TDS and DAS, as settings of trajectory tilting.

The proposal of a step is the Gaussian of the plain dynamics with its mean moved by (its variance) x
grad r_t,

    x' = x + [b + eps s] h + 2 eps h grad r_t + sqrt(2 eps h) e,
    r_t = l_t V_t,      V_t = scale * r(E[x1 | x_t]),

and its weight is (plain density / proposal's density) x exp(r_{t'}(x') - r_t(x)). In terms of
`TrajectoryTilting`: an extra drift chi = eps, the denoiser for a look-ahead, and weights by
transitions. Both papers take the variance of their diffusion's own sampler; here eps is free, as
everywhere.

References: Wu et al. 2023, arXiv 2306.17775 (TDS); Kim et al. 2025, arXiv 2501.05803 (DAS).
"""

from typing import Any

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.sde import NoiseLevel
from steer.samplers.smc.annealing import Annealing, LevelFunction, Rising
from steer.samplers.smc.incremental_weights import TransitionWeights
from steer.samplers.smc.trajectory_tilting import TrajectoryTilting

__all__ = ["das", "tds"]


def tds(
    steps: int = 100,
    lookahead: Lookahead | None = None,
    resample_below: float = 0.5,
    eps: float | NoiseLevel = 1.0,
    **more: Any,
) -> TrajectoryTilting:
    """Builds the twisted diffusion sampler: all of the tilt from the start, l_t = 1.

    Exact as particles and steps grow (Wu et al. 2023, arXiv 2306.17775).

    Args:
        steps, lookahead, resample_below, eps, more: as in TrajectoryTilting; Denoiser() by default.
    """
    return _twisted(steps, lookahead, resample_below, eps, 1.0, **more)


def das(
    steps: int = 100,
    lookahead: Lookahead | None = None,
    resample_below: float = 0.5,
    eps: float | NoiseLevel = 1.0,
    annealing: LevelFunction | Annealing | None = None,
    **more: Any,
) -> TrajectoryTilting:
    """Builds diffusion alignment as sampling: twisted, with the tilt annealed.

    Exact as particles and steps grow (Kim et al. 2025, arXiv 2501.05803).

    Args:
        steps, lookahead, resample_below, eps, more: as in TrajectoryTilting; Denoiser() by default.
        annealing: Rising() by default, the paper's exponential; or the adaptive Tempering().
    """
    return _twisted(steps, lookahead, resample_below, eps, annealing or Rising(), **more)


def _twisted(
    steps: int,
    lookahead: Lookahead | None,
    resample_below: float,
    eps: float | NoiseLevel,
    annealing: float | LevelFunction | Annealing,
    **more: Any,
) -> TrajectoryTilting:
    return TrajectoryTilting(
        steps,
        lookahead or Denoiser(),
        resample_below,
        eps=eps,
        chi=1.0,
        annealing=annealing,
        weighting=TransitionWeights(),
        **more,
    )
