"""Classifiers in the checkpoint format of `steer.checkpoint`, and the ones shipped with the package.

The header, under the key "steer" of the safetensors metadata:
    {"format": "steer", "version": 1, "kind": "classifier",
     "build": {"_target_": "rewards.networks.ResidualClassifier", ...its arguments}, ...notes}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.networks import Classifier
from steer import checkpoint
from steer.nearest import hint

__all__ = ["load_classifier", "save_classifier"]

KIND = "classifier"
TRUSTED = ("rewards.networks",)
WEIGHTS = Path(__file__).parent / "weights"


def save_classifier(
    path: str | Path, classifier: Classifier, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a classifier of `rewards.networks` to one safetensors file, atomically.

    Args:
        path: the file, usually ending in .safetensors; its folder is made if need be.
        classifier: the network; its settings go into the header.
        notes: whatever should be known of it later (data, accuracy, seed, command), as plain JSON
            values.
    """
    build = {"_target_": f"rewards.networks.{type(classifier).__name__}", **classifier.settings}
    header = {**(notes or {}), "kind": KIND, "build": build}
    checkpoint.write(classifier.state_dict(), Path(path), header)


def load_classifier(name_or_path: str | Path) -> Classifier:
    """Load a classifier, frozen, on the CPU.

    Args:
        name_or_path: a shipped name, such as "fashion-residual", or a .safetensors file.

    Raises:
        ValueError: there is no such name or file, or the file is damaged, holds no classifier of
            `rewards.networks`, or holds weights of another shape than its header says; names the
            file and what is wrong.
    """
    path = find(name_or_path)
    header = checkpoint.read_header(path)
    if header.get("kind") != KIND:
        raise ValueError(f"{path}: expected kind {KIND!r}, got {header.get('kind')!r}")
    module = checkpoint.load_module(path, TRUSTED)
    if not isinstance(module, Classifier):
        raise ValueError(f"{path}: expected a Classifier, got a {type(module).__name__}")
    return module


def find(name_or_path: str | Path) -> Path:
    """Find the file of a shipped name or a path. Raises ValueError if there is none."""
    if str(name_or_path) in shipped():
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if not path.is_file():
        ending = hint(name_or_path, shipped())
        raise ValueError(
            f"no classifier '{name_or_path}': give a .safetensors file or a shipped name; {ending}"
        )
    return path


def shipped() -> list[str]:
    """List the names of the classifiers that come with this package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
