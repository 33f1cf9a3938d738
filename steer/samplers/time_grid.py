"""Grids of times shifted towards the noise, as those of large models of images.

    1 - t' = shift (1 - t) / (1 + (shift - 1) (1 - t)).

Reference: Esser et al. 2024, arXiv 2403.03206, section 5.3.2.
"""

import copy

from steer.annotations import Positive
from steer.samplers.base import Sampler, Stepwise

__all__ = ["shifted"]


def shifted(sampler: Sampler, shift: Positive) -> Sampler:
    """Copies a sampler, with its grid of times shifted towards the noise.

    Args:
        sampler: one that steps on a grid of times.
        shift: 1 leaves the grid as it is; Stable Diffusion 3 has 3, FLUX.3 6.93
            (`Backbone.shift` says what the library has for a model).

    Raises:
        ValueError: a sampler without such a grid, or a shift that is not positive.
    """
    if not isinstance(sampler, Stepwise):
        raise ValueError(f"a {type(sampler).__name__} has no grid of times to shift; leave it out")
    if not shift > 0:
        raise ValueError(f"a shift is a positive number, 1 for none; got {shift}")
    moved = copy.copy(sampler)
    moved.shift = shift
    return moved
