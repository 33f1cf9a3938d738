"""Count, mean and scatter of vectors, packed in one symmetric matrix that can be pooled without
losing digits.

M = [[n, mean^T], [mean, S]],   S = sum_i (f_i - mean)(f_i - mean)^T.

Pooling shifts each scatter to the common mean, S = sum_k S_k + n_k (mean_k - mean)(mean_k -
mean)^T, so that nothing large is ever subtracted, as it would be in sum f f^T - n mean mean^T.

Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
"""

import torch
from jaxtyping import Float
from torch import Tensor


def moments(f: Float[Tensor, "n d"]) -> Float[Tensor, "d1 d1"]:
    """M of n >= 1 vectors, (d + 1, d + 1), in float64."""
    f = f.double()
    mean = f.mean(0)
    return _pack(mean.new_tensor(float(len(f))), mean, (f - mean).T @ (f - mean))


def pool(parts: Float[Tensor, "k d1 d1"]) -> Float[Tensor, "d1 d1"]:
    """M of the union of k sets from the M of each; a matrix of zeros is the empty set."""
    n = parts[:, 0, 0]
    means = parts[:, 0, 1:]
    scatters = parts[:, 1:, 1:]
    if n.sum() == 0:
        return parts[0]
    mean = n @ means / n.sum()
    gaps = means - mean
    return _pack(n.sum(), mean, scatters.sum(0) + (n * gaps.T) @ gaps)


def unpack(packed: Float[Tensor, "d1 d1"]) -> tuple[int, Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """n, mean and unbiased covariance S / (n - 1). Raises ValueError for n < 2."""
    n = int(packed[0, 0])
    if n < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {n}; call update with more")
    return n, packed[0, 1:], packed[1:, 1:] / (n - 1)


def _pack(n: Tensor, mean: Tensor, scatter: Tensor) -> Tensor:
    top = torch.cat([n[None], mean])[None]
    return torch.cat([top, torch.cat([mean[:, None], scatter], 1)])
