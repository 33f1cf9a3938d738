"""The data module of captioned scenes."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from steer.annotations import Count
from steer.data.fashion import to_signed
from steer.data.modules import StreamData
from steer.data.scenes.sample import captioned_scenes, check

__all__ = ["Scenes"]


class Scenes(StreamData):
    """Captioned scenes in [-1, 1], (B, 3, 32, 32), with a list of B captions as their condition.

    They are drawn at the first start and kept in the user's cache. It validates on scenes whose
    captions name combinations that training never shows. Flip none of the pictures: captions speak
    of left and right.

    Args:
        batch_size, seed: as in StreamData.
        count: scenes to train on.
        split: "train", "heldout" or "all", as in `draw_scenes`.
        scenes_seed: of the set of scenes.
        validation: held-out scenes to validate on.
        folder: where drawn scenes are kept; the user's cache by default.

    Raises:
        ValueError: no such split.
    """

    def __init__(
        self,
        batch_size: Count,
        seed: int = 0,
        count: Count = 30_000,
        split: str = "train",
        scenes_seed: int = 0,
        validation: Count = 1000,
        folder: str | Path | None = None,
    ):
        super().__init__(batch_size, seed)
        check(split, count)
        self.count = count
        self.split = split
        self.scenes_seed = scenes_seed
        self.validation = validation
        self.folder = folder

    def prepare_data(self) -> None:
        # one process draws
        self.load(self.split, self.count)
        self.load("heldout", self.validation)

    def setup(self, stage: str) -> None:
        self.train = self.load(self.split, self.count)
        self.heldout = self.load("heldout", self.validation)

    def load(self, split: str, count: int) -> tuple[torch.Tensor, list[str]]:
        """Load one set of scenes."""
        # sets that share a split would share scenes
        seed = self.scenes_seed + (split == self.split == "heldout" and count == self.validation)
        return captioned_scenes(split, count, seed, self.folder)

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, Any]:
        pictures, captions = self.train
        chosen = torch.randint(len(pictures), (self.batch_size,), generator=generator)
        return to_signed(pictures[chosen]), [captions[k] for k in chosen.tolist()]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_Chunks(*self.heldout, 500), batch_size=None, num_workers=0)


class _Chunks(Dataset):
    """Batches of (pictures, captions) in order, `size` at a time."""

    def __init__(self, pictures: torch.Tensor, captions: list[str], size: int):
        self.pictures = pictures
        self.captions = captions
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.size)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, list[str]]:
        if k >= len(self):
            raise IndexError(k)
        chosen = slice(k * self.size, (k + 1) * self.size)
        return to_signed(self.pictures[chosen]), self.captions[chosen]
