"""Classifiers and small CLIPs in the checkpoint format of `steer.checkpoint`, and those shipped.

The header, under the key "steer" of the safetensors metadata:
    {"format": "steer", "version": 1, "kind": "classifier",
     "build": {"_target_": "rewards.networks.ResidualClassifier", ...its arguments}, ...notes}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rewards.networks import Classifier
from rewards.small_clip import SmallClip
from steer import checkpoint
from steer.build import FROM_FILE, within
from steer.nearest import hint

__all__ = ["load_classifier", "load_clip", "save_classifier", "save_clip"]

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Kind:
    """A kind of network in checkpoints.

    Attributes:
        name: in the header.
        base: the class of its networks.
        title: for messages.
    """

    name: str
    base: type[Any]
    title: str


CLASSIFIER = Kind("classifier", Classifier, "a Classifier")
CLIP = Kind("clip", SmallClip, "a SmallClip")


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
    write(path, classifier, CLASSIFIER, classifier.state_dict(), notes)


def save_clip(
    path: str | Path, clip: SmallClip, notes: Mapping[str, Any] | None = None, half: bool = False
) -> None:
    """Write a small CLIP to one safetensors file, atomically.

    Args:
        path, notes: as for `save_classifier`.
        clip: the model; its settings, vocabulary included, go into the header.
        half: whether to write weights in half precision; they are read back to float32.
    """
    weights = clip.state_dict()
    if half:
        weights = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    write(path, clip, CLIP, weights, notes)


def write(
    path: str | Path,
    network: Any,
    kind: Kind,
    weights: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None,
) -> None:
    """Write weights with the settings of their network."""
    target = f"{type(network).__module__}.{type(network).__qualname__}"
    header = {
        **(notes or {}),
        "kind": kind.name,
        "build": {"_target_": target, **network.settings},
    }
    checkpoint.write(weights, Path(path), header)


def load_classifier(name_or_path: str | Path, trust: Sequence[str] = ()) -> Classifier:
    """Load a classifier, frozen, on the CPU.

    Args:
        name_or_path: a shipped name, such as "fashion-residual", or a .safetensors file.
        trust: further packages whose classes the file may build, as in `steer.load`.

    Raises:
        ValueError: there is no such name or file, or the file is damaged, holds no classifier of
            `rewards.networks`, or holds weights of another shape than its header says; names the
            file and what is wrong.
    """
    return load(name_or_path, CLASSIFIER, trust)


def load_clip(name_or_path: str | Path, trust: Sequence[str] = ()) -> SmallClip:
    """Load a small CLIP, frozen, on the CPU, in float32.

    Args:
        name_or_path: a shipped name or a .safetensors file.
        trust: as in `load_classifier`.

    Raises:
        ValueError: as for `load_classifier`.
    """
    return load(name_or_path, CLIP, trust)


def refuse_unloadable(network: Classifier | SmallClip, key: str) -> None:
    """Raise ValueError for a network whose class no load of its checkpoint would build.

    Args:
        network: to be saved.
        key: of its class in a config, for the error to name.
    """
    kind = CLASSIFIER if isinstance(network, Classifier) else CLIP
    module = type(network).__module__
    name = type(network).__qualname__
    if module.startswith(FROM_FILE):
        file = module.removeprefix(FROM_FILE).rpartition("_")[0]
        raise ValueError(checkpoint.unloadable(f"{file}.py:{name}", key))
    if not within(module, (kind.base.__module__, *checkpoint.FURTHER.get())):
        raise ValueError(checkpoint.unloadable(f"{module}.{name}", key))


def load(name_or_path: str | Path, kind: Kind, trust: Sequence[str] = ()) -> Any:
    """Load a network of that kind."""
    path = find(name_or_path, kind)
    header = checkpoint.read_header(path)
    if header.get("kind") != kind.name:
        raise ValueError(f"{path}: expected kind {kind.name!r}, got {header.get('kind')!r}")
    with checkpoint.trusting(trust):
        module = checkpoint.load_module(path, (kind.base.__module__,))
    if not isinstance(module, kind.base):
        raise ValueError(f"{path}: expected {kind.title}, got a {type(module).__name__}")
    return module


def find(name_or_path: str | Path, kind: Kind) -> Path:
    """Find the file of a shipped name or a path. Raises ValueError if there is none."""
    names = shipped(kind)
    if str(name_or_path) in names:
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if not path.is_file():
        ending = hint(name_or_path, names)
        raise ValueError(
            f"no {kind.name} '{name_or_path}': give a .safetensors file or a shipped name; {ending}"
        )
    return path


def shipped(kind: Kind = CLASSIFIER) -> list[str]:
    """List the names of the networks of a kind that come with this package."""
    files = sorted(WEIGHTS.glob("*.safetensors"))
    return [f.stem for f in files if checkpoint.read_header(f).get("kind") == kind.name]
