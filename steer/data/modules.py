"""LightningDataModules with an endless training stream keyed by the step, and validation sets."""

from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from steer.data.fashion import fashion_mnist, to_signed
from steer.data.plane import checkerboard
from steer.data.stream import Batch, Stream, step_loader

__all__ = ["Checkerboard", "FashionMnist", "StreamData"]


class StreamData(LightningDataModule, Stream):
    """A stream of batches (x1, cond); a data set defines `draw` and, optionally, `val_dataloader`.

    Args:
        batch_size: samples per batch and process.
        seed: of the stream.
    """

    def __init__(self, batch_size: int, seed: int = 0):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.draw, self.seed, self.trainer)


class Checkerboard(StreamData):
    """The 4 x 4 checkerboard over [-2, 2]^2, unconditional."""

    def draw(self, generator: torch.Generator) -> Batch:
        return checkerboard(self.batch_size, generator), None


class FashionMnist(StreamData):
    """Fashion-MNIST in [-1, 1] with its labels; validates on the 10 000 test images.

    Args:
        batch_size, seed: as in StreamData.
        folder: where the four .gz files are; by default they are looked for, then downloaded (see
            `fashion_mnist`).
    """

    def __init__(self, batch_size: int, seed: int = 0, folder: str | Path | None = None):
        super().__init__(batch_size, seed)
        self.folder = folder

    def prepare_data(self) -> None:
        # one process downloads, and bad files are found before training starts
        fashion_mnist("test", self.folder)

    def setup(self, stage: str) -> None:
        self.train, self.test = (fashion_mnist(split, self.folder) for split in ("train", "test"))

    def draw(self, generator: torch.Generator) -> Batch:
        images, labels = self.train
        chosen = torch.randint(len(images), (self.batch_size,), generator=generator)
        return to_signed(images[chosen]), labels[chosen]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_Chunks(*self.test, 500), batch_size=None, num_workers=0)


class _Chunks(IterableDataset):
    """Batches of (images, labels) in order, `size` at a time."""

    def __init__(self, images: Tensor, labels: Tensor, size: int):
        self.images = images
        self.labels = labels
        self.size = size

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in zip(
            self.images.split(self.size), self.labels.split(self.size), strict=True
        ):
            yield to_signed(images), labels
