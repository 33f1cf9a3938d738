"""Classifiers on disk: safetensors with a JSON header that says how to build the network. Nothing
is unpickled.

The header, under the key "steer" of the file's metadata:
    {"format": "steer", "version": 1, "kind": "classifier",
     "build": {"_target_": "rewards.networks.ResidualClassifier", ...its arguments}, ...notes}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rewards import networks
from rewards.networks import Classifier
from steer.nearest import nearest

__all__ = ["load_classifier", "save_classifier"]

FORMAT = {"format": "steer", "version": 1, "kind": "classifier"}
SHIPPED = Path(__file__).parent / "weights"


def save_classifier(
    path: str | Path, classifier: Classifier, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a classifier of `rewards.networks` to one safetensors file.

    Args:
        path: the file, usually ending in .safetensors; its folder is made if need be.
        classifier: the network; its settings go into the header.
        notes: whatever should be known of it later (data, accuracy, seed, command), as plain JSON
            values.
    """
    build = {"_target_": f"rewards.networks.{type(classifier).__name__}", **classifier.settings}
    header = {**(notes or {}), **FORMAT, "build": build}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()
    }
    save_file(tensors, path, metadata={"steer": json.dumps(header)})


def load_classifier(name_or_path: str | Path) -> Classifier:
    """A classifier by shipped name, such as "fashion-residual", or from a file; frozen, on the CPU.

    Raises:
        ValueError: if there is no such name or file, or the file is damaged, is no classifier of
            ours, or holds weights of another shape than its header says.
    """
    path = find(name_or_path)
    header, tensors = read(path)
    classifier = build(header["build"], path)
    check_shapes(classifier, tensors, path)
    classifier.load_state_dict(tensors)
    return classifier.requires_grad_(False).eval()


def read_header(name_or_path: str | Path) -> dict[str, Any]:
    """The JSON header of a classifier: how it is built, and the notes saved with it."""
    return read(find(name_or_path))[0]


def shipped() -> list[str]:
    """The names of the classifiers that come with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def find(name_or_path: str | Path) -> Path:
    """The file behind a shipped name or a path."""
    path = (
        SHIPPED / f"{name_or_path}.safetensors"
        if str(name_or_path) in shipped()
        else Path(name_or_path)
    )
    if path.is_file():
        return path
    near = nearest(name_or_path, shipped())
    mend = f"did you mean '{near}'?" if near else "correct the name, or train one"
    names = ", ".join(shipped()) or "none"
    raise ValueError(
        f"no classifier '{name_or_path}': expected a .safetensors file or a shipped name ({names}): {mend}"
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a classifier file, the header checked."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got {error}: fetch or train it again"
        ) from error
    header = parse(metadata.get("steer", "null"), path)
    found = {key: header.get(key) for key in FORMAT}
    if found != FORMAT or not isinstance(header.get("build"), dict):
        raise ValueError(
            f"{path}: expected the header of a classifier, {FORMAT}, got {found}: give another file"
        )
    return header, tensors


def parse(text: str, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON under 'steer', got {error}: save it with save_classifier"
        ) from error
    if not isinstance(header, dict):
        raise ValueError(
            f"{path}: expected a header under 'steer', got {header}: save it with save_classifier"
        )
    return header


def build(settings: Mapping[str, Any], path: Path) -> Classifier:
    """The network that a header describes, of the classes in `rewards.networks` and no other code."""
    known = {
        f"rewards.networks.{c.__name__}": c
        for c in Classifier.__subclasses__()
        if c.__module__ == networks.__name__
    }
    arguments = dict(settings)
    target = arguments.pop("_target_", None)
    if target not in known:
        raise ValueError(
            f"{path}: expected a network among {', '.join(known)}, got {target}: give another file"
        )
    try:
        return known[target](**arguments)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: {target} cannot be built from its header ({error}): train it again"
        ) from error


def check_shapes(classifier: Classifier, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Weights in the file must be those of the network, name by name and shape by shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in classifier.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path}: expected {name} of shape {expected.get(name)}, got {found.get(name)}: "
                "the weights are not those of the header, train it again"
            )
