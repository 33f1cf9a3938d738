"""Self-normalised weights, and the weight of pairs of different samples."""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_PAIR_MASS = 1e-6  # below, a mean over pairs is dominated by rounding


def normalized(log_w: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Compute w_i = exp(log_w_i) / sum_j exp(log_w_j) over the last axis, in float64.

    Raises:
        ValueError: for a NaN or +inf, and when every weight of a population is -inf.
    """
    log_w = log_w.double()
    if not torch.isfinite(log_w.amax(-1)).all():
        raise ValueError(
            "log_w must hold a finite entry per population and no NaN or +inf; check the reward"
        )
    return log_w.softmax(-1)


def pair_mass(w: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Compute sum_{i != j} w_i w_j = 1 - sum_i w_i^2, the weight of pairs of different samples.

    It is 1 - 1/n for equal weights. Dividing sums over i != j by it turns them into U-statistics,
    unbiased for equal weights.
    """
    return 1 - w.square().sum(-1)
