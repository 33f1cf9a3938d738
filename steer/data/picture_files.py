"""Folders of pictures: the files, what they are labelled by, and their pixels.

Labels come from sub-folders, `folder/cat/1.png` being of class "cat", as torchvision's ImageFolder
has it. Captions come from a `metadata.jsonl` beside the pictures, a line
{"file_name": "1.png", "text": "a cat"} for each, as the imagefolder of Hugging Face's datasets.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["captions_of", "classes_of", "pictures_in", "read_pictures"]

SUFFIXES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
}
METADATA = "metadata.jsonl"
MODES = {1: "L", 3: "RGB"}


def pictures_in(folder: str | Path) -> list[Path]:
    """List the pictures in a folder and below it, in the order of their paths; none that is hidden.

    Raises:
        ValueError: no such folder, or none in it.
    """
    home = Path(folder).expanduser()
    if not home.is_dir():
        raise ValueError(f"there is no folder {folder}; name the one that holds the pictures")
    found = sorted(
        path
        for path in home.rglob("*")
        if path.suffix.lower() in SUFFIXES and not hidden(path.relative_to(home))
    )
    if not found:
        raise ValueError(
            f"no pictures in {folder}: expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return found


def hidden(path: Path) -> bool:
    """Whether a path has a part that begins with a dot, as what macOS leaves beside pictures."""
    return any(part.startswith(".") for part in path.parts)


def classes_of(folder: str | Path) -> list[str]:
    """List the classes of a folder, its sub-folders with pictures, in alphabetical order.

    Raises:
        ValueError: no sub-folders, or pictures beside them.
    """
    home = Path(folder).expanduser()
    parents = [path.relative_to(home).parts[:-1] for path in pictures_in(folder)]
    loose = sum(not parts for parts in parents)
    if loose:
        raise ValueError(
            f"{folder} has {loose} pictures outside of class folders; labels need each in the"
            " folder of its class, as in cat/1.png"
        )
    return sorted({parts[0] for parts in parents})


def captions_of(
    folder: str | Path, pictures: Sequence[Path] | None = None, column: str = "text"
) -> list[str]:
    """Read the caption of each picture from metadata.jsonl.

    Args:
        folder: which holds it.
        pictures: in or below the folder; all of them if None.
        column: of the captions.

    Raises:
        ValueError: no such file, a line that is broken (gives its number), or a picture without
            one.
    """
    home = Path(folder).expanduser()
    path = home / METADATA
    if not path.is_file():
        raise ValueError(
            f'there is no {path}; it has a line {{"file_name": "1.png", "{column}": "..."}} for'
            " each picture"
        )
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    known = dict(caption_in(line, f"{path}, line {n}", column) for n, line in lines if line.strip())
    names = [picture.relative_to(home).as_posix() for picture in pictures or pictures_in(folder)]
    for name in names:
        if name not in known:
            raise ValueError(f"{path} has no line for {name}; add it, or take the picture away")
    return [known[name] for name in names]


def caption_in(line: str, where: str, column: str) -> tuple[str, str]:
    """Read the name and the caption of a line. Raises ValueError for a broken one."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: it is no JSON ({error.msg} at column {error.colno})") from error
    fields = record if isinstance(record, dict) else {}
    for name in ("file_name", column):
        if not isinstance(fields.get(name), str):
            has = ", ".join(map(repr, fields)) or "nothing"
            raise ValueError(f"{where}: expected a text {name!r}; it has {has}")
    return Path(fields["file_name"]).as_posix(), fields[column]


def read_pictures(pictures: Sequence[Path], shape: Sequence[int]) -> UInt8[Tensor, "n c h w"]:
    """Read pictures as bytes, scaled to cover the shape and cut to its middle.

    They are turned as their camera says, and what is transparent is white.

    Args:
        pictures: files.
        shape: (C, H, W) of each, C being 1 for grey or 3 for colours.

    Raises:
        ValueError: a file that cannot be read, or that has more than eight bits a channel; names
            it.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise ValueError(
            f"pictures have 1 channel or 3; got shape={tuple(shape)}, which is (C, H, W)"
        )
    with ThreadPoolExecutor() as readers:
        rows = readers.map(lambda path: _pixels(path, MODES[channels], (width, height)), pictures)
        found = np.stack(list(rows))
    return torch.from_numpy(found).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def _pixels(path: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
    """Read one picture, (H, W) or (H, W, 3)."""
    try:
        with Image.open(path) as file:
            deep = file.mode.startswith(("I", "F"))
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                seen = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            image = ImageOps.fit(image.convert(mode), size, Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {path}: {error}; mend it or take it away") from (
            error
        )
    if deep:
        raise ValueError(
            f"{path} has more than eight bits a channel; save it with eight, or pass arrays by"
            " steer.data.Tensors"
        )
    return np.asarray(image)
