"""Embeddings of the two times and of conditions, as vectors that networks add up.

An absent condition is cond=None for the whole batch, or the label -1 or the zero embedding for one
sample, so that conditional and unconditional samples share a batch, as classifier-free guidance
needs.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from steer.conditions import Cond, field
from steer.construction import remembered

__all__ = ["ClassCondition", "EmbeddingCondition", "NoCondition"]


class TimeEmbedding(nn.Module):
    """Sines and cosines of s and of t - s, then a two-layer perceptron: (s, t) -> (B, dim).

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


class Tokens(NamedTuple):
    """Token embeddings of a batch of conditions.

    Attributes:
        values: (b, n, e).
        mask: (b, n), true where there is a token; each sample has at least one.
    """

    values: Float[Tensor, "b n e"]
    mask: Bool[Tensor, "b n"]


class ConditionEmbedding(nn.Module, ABC):
    """An embedding of conditions, cond -> (B, dim), and perhaps tokens to attend to.

    Attributes:
        token_width: e of the tokens, or None without any.
        dim: size of the embedding, or None if it takes that of the network.
    """

    token_width: int | None = None
    dim: int | None = None

    def encode(
        self, cond: Any, like: Float[Tensor, "b dim"]
    ) -> tuple[Float[Tensor, "b dim"], Tokens | None]:
        """Compute the embedding, as `forward` does, and the tokens."""
        return self(cond, like), None

    @abstractmethod
    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        """Compute the embedding of cond, in the shape, precision and device of `like`."""


def refuse_no_tensor(labels: Any) -> None:
    """Raises ValueError for class labels that are no tensor, such as a list or texts."""
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"this map takes class labels as a tensor, cond=torch.tensor([...]); got {labels!r:.60}"
        )


def check_width(condition: ConditionEmbedding, width: int, network: str, why: str) -> None:
    """Check that an embedding has the width of the network that adds it to its own.

    Args:
        condition: the embedding.
        width: of the network's.
        network: its name.
        why: what the width comes from, such as "4 channels[0]".

    Raises:
        ValueError: another width.
    """
    if condition.dim not in (None, width):
        raise ValueError(
            f"condition: this {network} takes an embedding of dim={width} ({why}); the"
            f" {type(condition).__name__} has dim={condition.dim}: set it to {width}"
        )


class NoCondition(ConditionEmbedding):
    """The embedding of networks without a condition. Raises ValueError if there is one."""

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        if cond is not None:
            raise ValueError(
                "this network takes no condition; pass cond=None, or load a conditional map"
            )
        return torch.zeros_like(like)


@remembered
class ClassCondition(ConditionEmbedding):
    """A learned vector per class, and one more for the absent class, label -1.

    Class probabilities (B, classes) in place of labels give the mean of the classes' vectors. Of a
    steer.Condition it takes the field `labels`.

    Args:
        classes: number of classes; labels are integers (B,), from 0 to classes - 1, or -1.
        dim: size of the vectors.

    Raises:
        ValueError: when called, for labels of another shape, type or range.
    """

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.classes = classes
        self.dim = dim
        self.table = nn.Embedding(classes + 1, dim)

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        cond = field(cond, "labels")
        if cond is None:
            cond = torch.full((len(like),), -1, device=like.device)
        refuse_no_tensor(cond)
        if cond.is_floating_point() and cond.shape == (len(like), self.classes):
            return cond.to(self.table.weight.dtype) @ self.table.weight[: self.classes]
        if cond.shape != like.shape[:1] or cond.is_floating_point():
            got = f"{cond.dtype} of shape {tuple(cond.shape)}"
            raise ValueError(
                f"class labels are integers of shape ({len(like)},), one per sample; got {got}"
            )
        if ((cond < -1) | (cond >= self.classes)).any():
            raise ValueError(
                f"class labels are 0..{self.classes - 1}, or -1 for none; "
                f"got {cond.unique().tolist()}"
            )
        return self.table(cond % (self.classes + 1))  # -1 is the last row


@remembered
class EmbeddingCondition(ConditionEmbedding):
    """A linear map of an embedding, such as of a text; zero is the absent condition.

    Of a steer.Condition it takes the field `pooled`.

    Args:
        features: size of the embedding, which is (B, features).
        dim: size of the result.

    Raises:
        ValueError: when called, for embeddings of another shape.
    """

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(features, dim)

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        cond = field(cond, "pooled")
        if cond is None:
            cond = like.new_zeros(len(like), self.linear.in_features)
        expected = (len(like), self.linear.in_features)
        if cond.shape != expected:
            raise ValueError(
                f"embeddings have shape {expected}, one row per sample; got {tuple(cond.shape)}"
            )
        return self.linear(cond.to(self.linear.weight.dtype))
