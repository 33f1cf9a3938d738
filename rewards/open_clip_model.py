"""open_clip's models and tokenizers, with its failures told in one line."""

import textwrap
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from steer.nearest import nearest

Tokenizer = Callable[[list[str]], Tensor]


def open_clip_model(model: str, pretrained: str | None) -> tuple[nn.Module, Tokenizer]:
    """A pretrained open_clip model and its tokenizer.

    QuickGELU: OpenAI's weights, and some of others, were trained with another activation than the
    plain model names
    build. The wrong one runs without an error and gives quietly worse scores. For a tag open_clip
    warns by itself; what is in a file nobody can know, so this function warns whenever the model
    has a "-quickgelu" twin.

    Args:
        model: open_clip's name ("ViT-B-32"), or "hf-hub:owner/name", or "local-dir:/a/folder".
        pretrained: a tag that open_clip knows, or a checkpoint file; not needed for hub and folder.

    Raises:
        ValueError: if the model or its weights are unknown or unreadable, or open_clip cannot be
            imported.
    """
    open_clip = import_open_clip()
    if not model.startswith(("hf-hub:", "local-dir:")):
        model = model.replace("/", "-")
        check_known(open_clip, model, pretrained)
    try:
        network = open_clip.create_model(model, pretrained=pretrained, require_pretrained=True)
        return network, open_clip.get_tokenizer(model)
    except (
        Exception
    ) as error:  # open_clip, torch, safetensors and the hub each fail in their own way
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(
            f"open_clip model '{model}' with pretrained={pretrained!r} cannot be loaded: "
            f"{type(error).__name__}: {reason} (check that these weights belong to this model and are complete)"
        ) from error


def import_open_clip() -> ModuleType:
    """open_clip, which is slow to import and so is imported only when used."""
    try:
        import open_clip
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError: torch and torchvision of different builds
        raise ValueError(
            f"open_clip cannot be imported ({textwrap.shorten(str(error), 200)}): "
            "install open-clip-torch, and torch and torchvision as a matching pair (see constraints.txt)"
        ) from error
    return open_clip


def check_known(open_clip: ModuleType, model: str, pretrained: str | None) -> None:
    """The model must be one that open_clip builds, and its weights a tag or a file."""
    models = open_clip.list_models()
    tags = open_clip.list_pretrained_tags_by_model(model)
    if model not in models:
        raise ValueError(f"open_clip has no model '{model}': {hint(model, models)}")
    if pretrained is None:
        raise ValueError(
            f"'{model}' without weights would score at random: give pretrained= as a file or {known(tags)}"
        )
    if open_clip.is_pretrained_cfg(model, pretrained):
        return
    if not Path(pretrained).is_file():
        raise ValueError(
            f"'{model}': no weights '{pretrained}', neither a file nor a tag: {hint(pretrained, tags)}"
        )
    if f"{model}-quickgelu" in models:
        warnings.warn(
            f"{pretrained}: if these weights were trained with QuickGELU, as OpenAI's were, name the model "
            f"'{model}-quickgelu', or the scores will be quietly wrong",
            stacklevel=4,
        )


def hint(name: str, names: Iterable[str]) -> str:
    """End an error message with the nearest name, or with all of them."""
    close = nearest(name, names, cutoff=0.4)
    return f"did you mean '{close}'?" if close else f"give {known(names)}"


def known(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names) if list(names) else "a checkpoint file"
