"""What a network is told besides x: two times, and perhaps a class or an embedding, each as a
vector to add up.

An absent condition is cond=None for the whole batch, or the label -1, or the zero embedding for one
sample, so that conditional and unconditional samples share a batch and a network trained with some
conditions dropped can do without.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ClassCondition", "EmbeddingCondition", "NoCondition"]


class TimeEmbedding(nn.Module):
    """(s, t) -> (B, dim): sines and cosines of s and of t - s, then a two-layer perceptron.

    The gap t - s has its own features because a map is most sensitive to it near the diagonal.
    Frequencies are geometric from 1 to `highest` radians per unit time; about 100 is enough for a
    map and keeps d_t of it tame (Boffi et al. 2025, arXiv 2505.18825). Sines are taken in the
    precision of the times, never below float32.
    """

    def __init__(self, dim: int, features: int = 32, highest: float = 100.0):
        super().__init__()
        if features % 2:
            raise ValueError(
                f"TimeEmbedding has as many sines as cosines, so features is even; got {features}"
            )
        self.features = features
        self.highest = highest
        self.perceptron = nn.Sequential(
            nn.Linear(2 * features, dim), nn.SiLU(), nn.Linear(dim, dim)
        )

    def forward(self, s: Float[Tensor, "b"], t: Float[Tensor, "b"]) -> Float[Tensor, "b dim"]:
        # Not a buffer: casting the module to half precision would round the frequencies.
        powers = torch.linspace(
            0, math.log(self.highest), self.features // 2, dtype=s.dtype, device=s.device
        )
        angles = torch.stack((s, t - s), dim=1)[:, :, None] * powers.exp()
        waves = torch.cat((angles.sin(), angles.cos()), dim=2).flatten(1)
        return self.perceptron(waves.to(next(self.perceptron.parameters()).dtype))


class Condition(nn.Module, ABC):
    """cond -> (B, dim)."""

    @abstractmethod
    def forward(self, cond: Tensor | None, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        """The embedding of cond, in the shape, precision and place of `like`."""


class NoCondition(Condition):
    """For networks that are told nothing. Raises ValueError when told something all the same."""

    def forward(self, cond: Tensor | None, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        if cond is not None:
            raise ValueError(
                "this network takes no condition; got one. Pass cond=None, or load a conditional map"
            )
        return torch.zeros_like(like)


class ClassCondition(Condition):
    """A learned vector per class, and one more for the absent class, label -1.

    Args:
        classes: number of classes; labels run from 0 to classes - 1.
        dim: size of the vectors.
    """

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, dim)

    def forward(self, cond: Tensor | None, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        if cond is None:
            cond = torch.full((len(like),), -1, device=like.device)
        if cond.shape != like.shape[:1] or cond.is_floating_point():
            got = f"{cond.dtype} of shape {tuple(cond.shape)}"
            raise ValueError(
                f"class labels are integers of shape ({len(like)},), one per sample; got {got}"
            )
        if ((cond < -1) | (cond >= self.classes)).any():
            raise ValueError(
                f"class labels are 0..{self.classes - 1}, or -1 for none; got {cond.unique().tolist()}"
            )
        return self.table(cond % (self.classes + 1))  # -1 is the last row


class EmbeddingCondition(Condition):
    """A linear map of a given embedding (of a text, say); the zero embedding is the absent
    condition.

    Args:
        features: size of the given embedding.
        dim: size of the result.
    """

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(features, dim)

    def forward(self, cond: Tensor | None, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        if cond is None:
            cond = like.new_zeros(len(like), self.linear.in_features)
        expected = (len(like), self.linear.in_features)
        if cond.shape != expected:
            raise ValueError(
                f"embeddings have shape {expected}, one row per sample; got {tuple(cond.shape)}"
            )
        return self.linear(cond.to(self.linear.weight.dtype))
