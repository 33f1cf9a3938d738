"""Weights of published rewards: a local file, or a file of a repository on the hub."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def weight_file(name: str | Path) -> Path:
    """Find a file of weights, and fetch it from the hub where it is not local.

    Args:
        name: a local file, or "owner/name/file" for a file of a repository on the hub, which is
            kept in the hub's own cache.

    Raises:
        ValueError: there is no such file and it cannot be fetched; names the command that does.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    parts = str(name).split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise ValueError(
            f"weights '{name}': there is no such file; give one, or owner/name/file of the hub"
        )
    repository = "/".join(parts[:2])
    from huggingface_hub import hf_hub_download  # slow to import

    try:
        return Path(hf_hub_download(repository, parts[2]))
    except Exception as error:  # the hub raises errors of many kinds
        reason = textwrap.shorten(str(error), 160)
        raise ValueError(
            f"weights '{name}' are not here and cannot be fetched ({type(error).__name__}: "
            f"{reason}): run `hf download {repository} {parts[2]}` where the network is, or give "
            "the path of that file"
        ) from error


def read_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of one that torch wrote.

    Args:
        path: the file; pickled code in it is refused.
        key: where in the file the tensors are, if there; else it is read as a whole.

    Raises:
        ValueError: a damaged file, or one of another content; names it.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and safetensors raise errors of many kinds
        reason = textwrap.shorten(str(error), 160)
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason}): "
            "fetch it again, or give another file"
        ) from error
    if key is not None and isinstance(found, Mapping) and key in found:
        found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds no dictionary of tensors: give a file of weights")
    return dict(found)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all weights of a network. Raises ValueError, in one line, unless exactly they are there.

    Args:
        network: what they are loaded into.
        weights: by the network's own names.
        source: the file they came from, for the error.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    other = [k for k in own if k in weights and weights[k].shape != own[k].shape]
    what = [
        f"{len(names)} {kind}, as '{names[0]}'"
        for names, kind in ((missing, "missing"), (unknown, "unknown"), (other, "of another shape"))
        if names
    ]
    if what:
        raise ValueError(
            f"{source}: these weights are not of this {type(network).__name__} "
            f"({'; '.join(what)}): give the file and the model that belong together"
        )
    network.load_state_dict(weights)
