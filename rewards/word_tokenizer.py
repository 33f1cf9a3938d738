"""A tokenizer by words, for text towers of open_clip with a small vocabulary.

The ids are 0 for padding, 1, 2, ... for the words, then the start and, as the highest, the end of a
text. The towers of open_clip read a text causally and pool it at the highest id (`pool_type:
argmax`, its default), so that padding behind the end changes nothing.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from steer.nearest import hint


class WordTokenizer:
    """The function texts -> ids (b, context_length), as open_clip's tokenizers are.

    Letters count as lower case, and punctuation is left out.

    Args:
        words: the vocabulary.
        context_length: ids per text, start and end among them.

    Raises:
        ValueError: no words, or words that are not told apart; when called, for an empty text, an
            unknown word (named, with the nearest known) or a text that is too long.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = list(words)
        self.context_length = context_length
        self.ids = {word: k for k, word in enumerate(self.words, start=1)}
        broken = [word for word in self.words if split(word) != [word]]
        if not self.words or broken or len(self.ids) < len(self.words):
            got = f"{broken[0]!r}" if broken else f"{len(self.words)} with {len(self.ids)} distinct"
            raise ValueError(
                f"words are distinct, in lower case and without spaces or punctuation; got {got}"
            )

    @property
    def start(self) -> int:
        """The id before the first word."""
        return len(self.words) + 1

    @property
    def end(self) -> int:
        """The id behind the last word, the highest."""
        return len(self.words) + 2

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self.words) + 3

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "b context_length"]:
        rows = [[self.start, *self.numbers(text), self.end] for text in texts]
        padded = [row + [0] * (self.context_length - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long).reshape(len(rows), self.context_length)

    def numbers(self, text: str) -> list[int]:
        """Number the words of one text."""
        words = split(text)
        longest = self.context_length - 2
        if not words:
            raise ValueError("expected a prompt, got an empty one: write at least one word")
        if len(words) > longest:
            raise ValueError(
                f"prompts have at most {longest} words; got {len(words)} in {text!r}: shorten it"
            )
        unknown = [word for word in words if word not in self.ids]
        if unknown:
            raise ValueError(
                f"prompt {text!r}: this CLIP knows no word {unknown[0]!r};"
                f" {hint(unknown[0], self.words)}"
            )
        return [self.ids[word] for word in words]


def split(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return re.findall(r"[^\s.,!?;:\"]+", text.lower())
