"""An encoder of captions, trained with the map: a vector that modulates, and tokens to attend to.

A caption is split into words, each of a known vocabulary; a few transformer blocks read them. The
sum of two of its results enters the network: the first token, which no caption lacks, as a vector,
and all tokens by cross-attention (Rombach et al. 2022, arXiv 2112.10752). The empty caption is the
absent condition.
"""

import re
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steer.annotations import Count
from steer.conditions import Cond, field
from steer.construction import remembered
from steer.nearest import hint
from steer.networks.conditioning import ConditionEmbedding, Tokens
from steer.networks.masked_attention import MaskedAttention
from steer.networks.normalisation import LayerNorm

__all__ = ["CaptionCondition", "vocabulary"]

START = "<start>"


def words_of(caption: str) -> list[str]:
    """Lists the words of a caption in lower case, without punctuation."""
    return re.findall(r"[^\s.,!?;:\"]+", caption.lower())


def vocabulary(captions: Iterable[str]) -> list[str]:
    """Lists the words of captions, each once, in alphabetical order."""
    return sorted({word for caption in captions for word in words_of(caption)})


@remembered
class CaptionCondition(ConditionEmbedding):
    """An embedding of captions by words, with tokens for cross-attention.

    Args:
        words: the vocabulary.
        dim: size of the vector.
        width: of the tokens.
        blocks: transformer blocks that read the words.
        heads: of their attention.
        longest: words of a caption at most.

    Raises:
        ValueError: when called, for words that it does not know (named, with the nearest known),
            captions that are too long, or conditions that are no captions.
    """

    def __init__(
        self,
        words: Sequence[str],
        dim: Count,
        width: Count = 64,
        blocks: Count = 2,
        heads: Count = 4,
        longest: Count = 16,
    ):
        super().__init__()
        self.words = [START, *dict.fromkeys(words)]
        self.ids = {word: k for k, word in enumerate(self.words)}
        self.longest = longest
        self.dim = dim
        self.token_width = width
        self.table = nn.Embedding(len(self.words), width)
        self.places = nn.Embedding(longest + 1, width)
        self.blocks = nn.ModuleList(WordBlock(width, heads) for _ in range(blocks))
        self.norm = LayerNorm(width)
        self.project = nn.Linear(width, dim)

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        return self.encode(cond, like)[0]

    def encode(
        self, cond: Cond, like: Float[Tensor, "b dim"]
    ) -> tuple[Float[Tensor, "b dim"], Tokens]:
        tokens = self.tokens(cond, len(like))
        return self.project(tokens.values[:, 0]), tokens

    def tokens(self, cond: Cond, n: int) -> Tokens:
        """Encodes the captions of n samples; None stands for empty ones.

        Each caption is encoded once, however many samples have it.
        """
        captions = [""] * n if cond is None else captions_of(cond, n)
        unique = list(dict.fromkeys(captions))
        where = {caption: k for k, caption in enumerate(unique)}
        ids = self.numbered(unique)
        mask = ids >= 0
        h = self.table(ids.clamp(min=0)) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        chosen = torch.tensor([where[caption] for caption in captions], device=ids.device)
        return Tokens(self.norm(h)[chosen], mask[chosen])

    def numbered(self, captions: Sequence[str]) -> Int[Tensor, "b n"]:
        """Numbers the words of each caption behind a start, -1 where there is none."""
        rows = [[START, *words_of(caption)] for caption in captions]
        for caption, row in zip(captions, rows, strict=True):
            if len(row) > self.longest + 1:
                raise ValueError(
                    f"captions have at most {self.longest} words; got {len(row) - 1} in"
                    f" {caption!r}: shorten it"
                )
            for word in row:
                if word not in self.ids:
                    raise ValueError(
                        f"caption {caption!r}: this map knows no word {word!r};"
                        f" {hint(word, self.words[1:])}"
                    )
        longest = max(map(len, rows))
        device = self.table.weight.device
        numbers = [[self.ids[w] for w in row] + [-1] * (longest - len(row)) for row in rows]
        return torch.tensor(numbers, device=device)


class WordBlock(nn.Module):
    """A transformer block over words: h + attention(norm(h)), then h + perceptron(norm(h))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attention = MaskedAttention(width, width, heads)
        self.norm2 = LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, h: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Tensor:
        own = self.norm1(h)
        h = h + self.attention(own, own, mask)
        return h + self.perceptron(self.norm2(h))


def captions_of(cond: Cond, n: int) -> list[str]:
    """Checks that a condition has a caption for each of n samples, and lists them."""
    texts = field(cond, "texts")
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        got = type(cond).__name__
        raise ValueError(
            f"this map is told captions, a list of {n} texts, '' for none; got a {got}"
        )
    if len(texts) != n:
        raise ValueError(f"captions are one per sample, {n} of them; got {len(texts)}")
    return list(texts)
