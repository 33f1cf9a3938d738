"""The sampling floor of a distance: its distribution between samples of equal laws."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["sampling_floor"]


def sampling_floor(
    distance: Callable[[Tensor, Tensor], Tensor],
    pool: Float[Tensor, "n2 *shape"],
    repeats: int,
    generator: torch.Generator,
) -> Float[Tensor, " repeats"]:
    """Compute distances between random halves of reference samples, as in a permutation test.

    For the floor of n model samples against n real ones, give a pool of 2n. Its mean is the bias of
    `distance`, its root mean square the resolution; a distance above its 95 % quantile is
    significant.

    Args:
        distance: (n, *shape), (n, *shape) -> scalar, such as `energy_distance`.
        pool: (2n, *shape) samples of the reference law, used by nothing else.
        repeats: number of random splits.
        generator: on the CPU, draws the splits.
    """
    half = len(pool) // 2
    values = []
    for _ in range(repeats):
        order = torch.randperm(len(pool), generator=generator).to(pool.device)
        values.append(distance(pool[order[:half]], pool[order[half : 2 * half]]))
    return torch.stack(values)
