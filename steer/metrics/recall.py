"""Recall at k: how often what belongs to a query is among its k nearest."""

from jaxtyping import Bool, Float
from torch import Tensor

from steer.annotations import Count

__all__ = ["recall_at"]


def recall_at(
    similarity: Float[Tensor, "n m"], belongs: Bool[Tensor, "n m"], k: Count
) -> Float[Tensor, ""]:
    """Compute the share of queries with a hit among the k most similar of m candidates.

    Args:
        similarity: of each query to each candidate.
        belongs: which candidates are hits; several may be, as where captions repeat.
        k: how many are looked at, all of them if there are fewer.
    """
    nearest = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return belongs.gather(1, nearest).any(1).float().mean()
