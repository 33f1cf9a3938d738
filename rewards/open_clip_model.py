"""Models and tokenizers of open_clip, with its errors in one line."""

import textwrap
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from steer.nearest import nearest

Tokenizer = Callable[[list[str]], Tensor]


def open_clip_model(
    model: str, pretrained: str | None, others: Iterable[str] = ()
) -> tuple[nn.Module, Tokenizer]:
    """Load a pretrained open_clip model and its tokenizer.

    QuickGELU: OpenAI's weights, and some others, were trained with another activation than the one
    of the plain model names. The wrong one raises no error and gives worse scores. For a tag
    open_clip warns by itself; for a file this function warns whenever the model has a "-quickgelu"
    variant.

    Args:
        model: open_clip's name ("ViT-B-32"), or "hf-hub:owner/name", or "local-dir:/a/folder".
        pretrained: a tag that open_clip knows, or a checkpoint file; not needed for hub and folder.
        others: names that are valid beside open_clip's, for errors to offer.

    Raises:
        ValueError: if the model or its weights are unknown or unreadable, or open_clip cannot be
            imported.
    """
    open_clip = import_open_clip()
    if not model.startswith(("hf-hub:", "local-dir:")):
        model = model.replace("/", "-")
        check_known(open_clip, model, pretrained, others)
    try:
        network = open_clip.create_model(model, pretrained=pretrained, require_pretrained=True)
        return network, open_clip.get_tokenizer(model)
    except (
        Exception
    ) as error:  # open_clip, torch, safetensors and the hub raise errors of all kinds
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(
            f"open_clip model '{model}' with pretrained={pretrained!r} cannot be loaded: "
            f"{type(error).__name__}: {reason} "
            "(check that these weights belong to this model and are complete)"
        ) from error


def untrained(model: str) -> tuple[nn.Module, Tokenizer]:
    """Build the network of a model of open_clip without its weights, and its tokenizer.

    Args:
        model: open_clip's name ("ViT-H-14").

    Raises:
        ValueError: if open_clip does not know the model, or cannot be imported.
    """
    open_clip = import_open_clip()
    model = model.replace("/", "-")
    if model not in open_clip.list_models():
        raise ValueError(
            f"open_clip has no model '{model}': {hint(model, open_clip.list_models())}"
        )
    return open_clip.create_model(model, pretrained=None), open_clip.get_tokenizer(model)


def import_open_clip() -> ModuleType:
    """Import open_clip, which is slow, only when it is used. Raises ValueError if it fails."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision do not match
        raise ValueError(
            f"open_clip cannot be imported ({textwrap.shorten(str(error), 200)}): install "
            "open-clip-torch, and torch and torchvision as a matching pair (see constraints.txt)"
        ) from error
    return open_clip


def preprocess_config(model: nn.Module) -> dict[str, Any]:
    """Return open_clip's preprocessing settings of a model, completed by its defaults."""
    open_clip = import_open_clip()
    return asdict(open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)))


def check_known(
    open_clip: ModuleType, model: str, pretrained: str | None, others: Iterable[str] = ()
) -> None:
    """Raise ValueError unless open_clip builds the model and its weights are a tag or a file."""
    models = open_clip.list_models()
    tags = open_clip.list_pretrained_tags_by_model(model)
    if model not in models:
        raise ValueError(f"open_clip has no model '{model}': {hint(model, [*others, *models])}")
    if pretrained is None:
        raise ValueError(
            f"'{model}' without weights would score at random: "
            f"give pretrained= as a file or {known(tags)}"
        )
    if open_clip.is_pretrained_cfg(model, pretrained):
        return
    if not Path(pretrained).is_file():
        raise ValueError(
            f"'{model}': '{pretrained}' is neither a file nor a tag: {hint(pretrained, tags)}"
        )
    if f"{model}-quickgelu" in models:
        warnings.warn(
            f"{pretrained}: if these weights were trained with QuickGELU, as OpenAI's were, "
            f"name the model '{model}-quickgelu', or the scores will be wrong",
            stacklevel=4,
        )


def hint(name: str, names: Iterable[str]) -> str:
    """End an error message with the nearest name, or with all of them."""
    close = nearest(name, names, cutoff=0.4)
    return f"did you mean '{close}'?" if close else f"give {known(names)}"


def known(names: Iterable[str]) -> str:
    """List the known names for an error message."""
    return "one of " + ", ".join(names) if list(names) else "a checkpoint file"
