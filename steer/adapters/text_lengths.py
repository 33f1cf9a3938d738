"""Prompts that are longer than a text encoder reads."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet_about_length", "tell_of_cuts"]

UNLIMITED = 10**6  # tokenizers without a limit of their own say more
SHOWN = 40  # characters of a prompt
LOUD = ("diffusers", "transformers.tokenization_utils_base")  # loggers that speak of length


def tell_of_cuts(texts: Sequence[str], modules: Mapping[str, Any]) -> None:
    """Warns of prompts of which a text encoder reads only the beginning, a line for each encoder.

    Args:
        texts: the prompts.
        modules: parts of the model by name, tokenizers among them.
    """
    for name, tokenizer in modules.items():
        limit = getattr(tokenizer, "model_max_length", UNLIMITED)
        if not name.startswith("tokenizer") or limit >= UNLIMITED:
            continue
        with quiet_about_length():
            lengths = [len(tokenizer(text).input_ids) for text in texts]
        cut = [(n, text) for n, text in zip(lengths, texts, strict=True) if n > limit]
        if cut:
            most, text = max(cut)
            others = f" and {len(cut) - 1} others" if len(cut) > 1 else ""
            warnings.warn(
                f"{name.replace('tokenizer', 'text_encoder')} reads {limit} tokens, and the prompt"
                f" {text[:SHOWN] + '...'!r} has {most}{others}: the rest is cut off; shorten it",
                stacklevel=4,
            )


@contextmanager
def quiet_about_length() -> Iterator[None]:
    """Keeps the libraries from warning of long prompts in their own, misleading words."""
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
