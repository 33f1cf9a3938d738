"""Fréchet distance between Gaussians fitted to features: the "FID" of any feature network.

d^2 = |mu1 - mu2|^2 + tr C1 + tr C2 - 2 tr (C1^1/2 C2 C1^1/2)^1/2,

which is W_2^2 of the two Gaussians. Biased upwards by about 1/n: compare at equal n, beside the
distance between two sets of real images.

Reference: Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from steer.metrics.batches import in_batches
from steer.metrics.moments import moments, pool, unpack

__all__ = ["FrechetDistance", "frechet_distance"]

ROUNDING = 1e-8  # negative eigenvalues up to this share of the largest are zeros


def frechet_distance(
    mu1: Float[Tensor, " d"],
    cov1: Float[Tensor, "d d"],
    mu2: Float[Tensor, " d"],
    cov2: Float[Tensor, "d d"],
) -> Float[Tensor, ""]:
    """The squared Fréchet distance, in float64; singular covariances are welcome.

    The trace of the root is the nuclear norm |C1^1/2 C2^1/2|_*, which never squares a condition
    number.

    Raises:
        ValueError: if a covariance has a negative eigenvalue beyond rounding.
    """
    mu1, cov1, mu2, cov2 = (value.double() for value in (mu1, cov1, mu2, cov2))
    overlap = torch.linalg.svdvals(_root(cov1) @ _root(cov2)).sum()
    return (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap


def _root(cov: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(cov)
    if values.min() < -ROUNDING * values.abs().max():
        raise ValueError(
            f"expected a positive semi-definite covariance, got an eigenvalue {float(values.min()):.3g}"
        )
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


class FrechetDistance(Metric):
    """Squared Fréchet distance between features of real images and of the model's.

    update(images (B, *shape), real); compute() -> scalar. The state is two sets of moments in
    float64, of a size that does not grow with the images. `forward` asks for a distance after one
    batch, which has one side only: use `update`.

    Args:
        features: images (B, *shape) -> (B, d). A module runs as it is: put it in eval mode first.
        dimension: d.
        max_batch: images given to `features` at once.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: Tensor
    model: Tensor

    def __init__(
        self, features: Callable[[Tensor], Tensor], dimension: int, max_batch: int = 512
    ) -> None:
        super().__init__()
        self.features = features
        self.dimension = dimension
        self.max_batch = max_batch
        for name in ("real", "model"):
            empty = torch.zeros(dimension + 1, dimension + 1, dtype=torch.float64)
            self.add_state(name, empty, dist_reduce_fx=pool)

    def update(self, images: Float[Tensor, "b *shape"], real: bool) -> None:
        """Adds images to the real or the model side. Raises ValueError if the features are not (B,
        dimension).
        """
        f = in_batches(self.features, images, self.max_batch)
        if f.shape[1:] != (self.dimension,):
            raise ValueError(
                f"expected features of shape (B, {self.dimension}), got {tuple(f.shape)}; set dimension to d"
            )
        if real:
            self.real = pool(torch.stack([self.real, moments(f)]))
        else:
            self.model = pool(torch.stack([self.model, moments(f)]))

    def compute(self) -> Tensor:
        """The squared distance. Raises ValueError while either side has fewer than two images."""
        _, mu1, cov1 = unpack(self.real)
        _, mu2, cov2 = unpack(self.model)
        return frechet_distance(mu1, cov1, mu2, cov2)
