"""Pairwise diversity: the mean feature distance of two particles of the same prompt.

N / (N - 1) sum_ij w_i w_j d(f_i, f_j), averaged over prompts: the mean over pairs i != j for equal
weights, and 0 when one particle has all the weight. Up to the factor, it is the expected diversity
after multinomial resampling.

By default d is the cosine distance 1 - f_i . f_j / |f_i||f_j|: 0 for equal directions, 1 for
orthogonal ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from steer.metrics.batches import in_batches
from steer.metrics.energy_distance import distance_between
from steer.metrics.weights import normalized

__all__ = ["PairwiseDiversity", "cosine_diversity", "euclidean_diversity"]


def cosine_diversity(f: Float[Tensor, "n d"], w: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Compute the mean of 1 - cos over pairs, N / (N - 1) (1 - |sum_i w_i f_i / |f_i||^2), in O(N).

    Raises:
        ValueError: for a zero feature vector, which has no direction.
    """
    length = f.norm(dim=-1, keepdim=True)
    if not (length > 0).all():
        raise ValueError(
            "a feature vector is zero and has no cosine; "
            "use distance=euclidean_diversity or other features"
        )
    n = len(f)
    along = (w @ (f / length)).square().sum()
    return (
        n / (n - 1) * torch.where(along > 1 - n * torch.finfo(along.dtype).eps, 0.0, 1 - along)
    )  # 0 up to rounding


def euclidean_diversity(f: Float[Tensor, "n d"], w: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Compute N / (N - 1) sum_ij w_i w_j |f_i - f_j|, suited to points of the plane."""
    n = len(f)
    f = f - w @ f
    return n / (n - 1) * distance_between(f, f, w, w)


class PairwiseDiversity(Metric):
    """The mean feature distance between particles of one prompt, averaged over prompts.

    update(x (P, N, *shape), log_w (P, N) = None); compute() -> scalar.

    Args:
        features: (B, *shape) -> (B, d). A module runs as it is: put it in eval mode first.
        distance: features (N, d), normalised weights (N,) -> scalar.
        max_batch: particles given to `features` at once.
        metric: settings of torchmetrics' Metric, such as sync_on_compute=False for one that stays
            in its process.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    prompts: Tensor

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        distance: Callable[[Tensor, Tensor], Tensor] = cosine_diversity,
        max_batch: int = 512,
        **metric: Any,
    ) -> None:
        super().__init__(**metric)
        self.features = features
        self.distance = distance
        self.max_batch = max_batch
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("prompts", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, x: Float[Tensor, "p n *shape"], log_w: Float[Tensor, "p n"] | None = None
    ) -> None:
        """Add prompts, each with all its particles. Raises ValueError for fewer than two."""
        self.total = self.total + self.of_prompts(x, log_w).sum()
        self.prompts = self.prompts + len(x)

    def of_prompts(
        self, x: Float[Tensor, "p n *shape"], log_w: Float[Tensor, "p n"] | None = None
    ) -> Float[Tensor, " p"]:
        """Compute the diversity of each prompt. Raises ValueError for fewer than two particles."""
        if x.shape[1] < 2:
            raise ValueError(
                "diversity needs at least 2 particles a prompt, got 1; "
                "put equal prompts on the particle axis"
            )
        w = normalized(x.new_zeros(x.shape[:2]) if log_w is None else log_w)
        f = in_batches(self.features, x.flatten(0, 1), self.max_batch).reshape(*x.shape[:2], -1)
        return torch.stack([self.distance(a, b) for a, b in zip(f, w, strict=True)])

    def compute(self) -> Tensor:
        """Compute the mean over prompts. Raises ValueError before any prompt."""
        if self.prompts == 0:
            raise ValueError("expected particles, got none; call update(x) first")
        return self.total / self.prompts
