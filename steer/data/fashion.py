"""Fashion-MNIST: 60 000 + 10 000 greyscale 28 x 28 images of clothes in ten classes.

Reference: Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
"""

import os
from pathlib import Path

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from steer.data.idx import read_idx

__all__ = ["fashion_images", "fashion_mnist", "to_signed"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}


def fashion_mnist(
    split: str, folder: str | Path | None = None
) -> tuple[UInt8[Tensor, "n 1 28 28"], Int[Tensor, "n"]]:
    """Load images (n, 1, 28, 28) uint8 and labels (n,) int64 of the "train" or "test" split.

    Looks in `folder`; by default in that of Debian's dataset-fashion-mnist, then in the user's
    cache, where torchvision downloads them if they are missing.

    Raises:
        ValueError: no such split, no data, or files that cannot be read.
    """
    if split not in PREFIXES:
        raise ValueError(f"fashion_mnist has the splits 'train' and 'test'; got {split!r}")
    found = _find(folder)
    images = read_idx(_file(found, f"{PREFIXES[split]}-images-idx3-ubyte"))
    labels = read_idx(_file(found, f"{PREFIXES[split]}-labels-idx1-ubyte"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{found} does not hold Fashion-MNIST: expected (n, 28, 28) images and n labels,"
            f" got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return images.unsqueeze(1), labels.long()


def fashion_images(split: str = "train") -> Float[Tensor, "n 1 28 28"]:
    """Load the images of a split in [-1, 1]; see `fashion_mnist`."""
    return to_signed(fashion_mnist(split)[0])


def to_signed(images: UInt8[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """Convert bytes 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def cache_folder() -> Path:
    """Return the folder of downloads, $XDG_CACHE_HOME/flowmap-steer, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowmap-steer"


def _find(folder: str | Path | None) -> Path:
    """Find the folder of the files, or download them."""
    if folder is not None:
        return Path(folder)
    if DEBIAN.is_dir():
        return DEBIAN
    return _download(cache_folder())


def _download(cache: Path) -> Path:
    """Download the files by torchvision. Raises ValueError if it fails."""
    from torchvision.datasets import FashionMNIST  # slow to import, and needed only here

    try:
        FashionMNIST(str(cache), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"no Fashion-MNIST: not in {DEBIAN} (apt install dataset-fashion-mnist), "
            f"and downloading it to {cache} failed ({reason}); "
            "install it or name the folder of its .gz files"
        ) from error
    return cache / "FashionMNIST" / "raw"


def _file(folder: Path, name: str) -> Path:
    """Find a file, gzipped or not. Raises ValueError if there is none."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise ValueError(
        f"no {name}.gz in {folder}: name the folder that holds the four Fashion-MNIST files"
    )
