"""A folder of pictures as a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch

from steer.annotations import AtLeast, Count
from steer.conditions import Cond
from steer.data.picture_files import METADATA, captions_of, classes_of, pictures_in, read_pictures
from steer.data.stream import Batch
from steer.data.tensors import Stored

__all__ = ["ImageFolder"]


class ImageFolder(Stored):
    """The pictures in a folder and below it, in [-1, 1], with labels or captions.

    Captions are those of `folder`/metadata.jsonl, where there is one; labels (B,) number the
    sub-folders in alphabetical order. A folder with neither has no conditions. All pictures are
    read once, at one size, and kept in memory as bytes.

    Args:
        folder: of the pictures.
        batch_size, seed: as in StreamData.
        shape: (C, H, W) of a sample, C being 1 for grey or 3 for colours. Pictures are scaled to
            cover it, and cut to its middle.
        conditions: whether samples have labels or captions; False for a map without a condition.
        column: of the captions in metadata.jsonl.
        validation: how many pictures are kept from training, for loops that validate.
        flip: whether half of the pictures are mirrored, left to right.

    Raises:
        ValueError: no pictures, one that cannot be read, or a broken metadata.jsonl.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: Count = 64,
        seed: int = 0,
        shape: Annotated[Sequence[Count], AtLeast(1)] = (3, 32, 32),
        conditions: bool = True,
        column: str = "text",
        validation: Annotated[int, AtLeast(0)] = 0,
        flip: bool = False,
    ):
        super().__init__(batch_size, seed, validation, flip)
        if len(shape) != 3:
            raise ValueError(f"shape is (C, H, W) of a picture; got {tuple(shape)}")
        self.folder = Path(folder).expanduser()
        self.shape = tuple(shape)
        self.conditions = conditions
        self.column = column

    def load(self) -> Batch:
        pictures = pictures_in(self.folder)
        cond = self.asked(pictures)
        return read_pictures(pictures, self.shape), cond

    def asked(self, pictures: Sequence[Path]) -> Cond:
        """Find the condition of each picture."""
        if not self.conditions:
            return None
        if (self.folder / METADATA).is_file():
            return captions_of(self.folder, pictures, self.column)
        if all(path.parent == self.folder for path in pictures):
            return None
        number = {name: k for k, name in enumerate(classes_of(self.folder))}
        return torch.tensor([number[path.relative_to(self.folder).parts[0]] for path in pictures])
