"""Data of one's own that fit in memory: tensors, arrays, or files of them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from steer.annotations import AtLeast, Count
from steer.conditions import Cond, check, pick
from steer.data.fashion import to_signed
from steer.data.modules import StreamData
from steer.data.stream import Batch, keyed_generator

__all__ = ["Tensors"]

CHUNK = 500  # samples of a validation batch


class Stored(StreamData, ABC):
    """A data set in memory; a subclass defines `load`.

    Bytes are pictures, and go to [-1, 1]. With `flip`, half of the samples of a batch are mirrored,
    left to right.

    Args:
        batch_size, seed: as in StreamData.
        validation: how many samples are kept from training, for loops that validate; they are the
            same whatever the seed.
        flip: whether to mirror; of pictures alone.
    """

    def __init__(self, batch_size: int, seed: int, validation: int, flip: bool):
        super().__init__(batch_size, seed)
        self.validation = validation
        self.flip = flip
        self.all: Batch | None = None

    @abstractmethod
    def load(self) -> Batch:
        """Load all samples (n, *shape) and their conditions."""

    def prepare_data(self) -> None:
        # what does not fit is found before training starts
        self.all = self.all or self.load()

    def setup(self, stage: str) -> None:
        self.all = self.all or self.load()
        n = len(self.all[0])
        if self.validation >= n:
            raise ValueError(
                f"validation={self.validation} leaves nothing of {n} samples to train on; lower it"
            )
        order = torch.randperm(n, generator=keyed_generator("validation"))
        self.heldout = order[: self.validation].sort()[0]
        self.kept = order[self.validation :].sort()[0]

    def draw(self, generator: torch.Generator) -> Batch:
        size = self.batch_size
        x1, cond = self.at(self.kept[torch.randint(len(self.kept), (size,), generator=generator)])
        if self.flip:
            if x1.ndim != 4:
                raise ValueError(
                    f"flip mirrors pictures (C, H, W); got samples {tuple(x1.shape[1:])}: leave it"
                    " out"
                )
            mirrored = torch.rand(size, generator=generator) < 0.5
            x1 = torch.where(mirrored.view(-1, *[1] * (x1.ndim - 1)), x1.flip(-1), x1)
        return x1, cond

    def at(self, indices: Tensor) -> Batch:
        """Select samples, and convert bytes to [-1, 1] and other numbers to float32."""
        assert self.all is not None
        x = self.all[0][indices]
        return to_signed(x) if x.dtype == torch.uint8 else x.float(), pick(self.all[1], indices)

    def val_dataloader(self) -> DataLoader | list:
        if not self.validation:
            return []
        chunks = [self.at(indices) for indices in self.heldout.split(CHUNK)]
        return DataLoader(chunks, batch_size=None, num_workers=0)  # type: ignore[arg-type]


class Tensors(Stored):
    """Samples of one's own, given as a tensor, an array, or a file of one, with their conditions.

    Tensors(images, labels, batch_size=64), or in a config

        data: {_target_: steer.data.Tensors, x: images.npy, cond: labels.npy, batch_size: 64}

    Args:
        x: samples (n, *shape). Bytes 0 ... 255 are pictures, and go to [-1, 1]; other numbers are
            taken as they are, in float32: bring them to about unit scale. A path is of a .npy, .pt
            or .safetensors file; the last holds "x", and perhaps "cond".
        cond: one entry per sample: labels (n,), embeddings (n, E), a list of n texts, a
            steer.Condition, a file of labels or embeddings, or None.
        batch_size, seed: as in StreamData.
        validation: how many samples are kept from training, for loops that validate.
        flip: whether half of the samples are mirrored, left to right.

    Raises:
        ValueError: a file that cannot be read, samples that are not finite, or conditions of
            another number.
    """

    def __init__(
        self,
        x: Tensor | np.ndarray | str | Path,
        cond: Cond = None,
        batch_size: Count = 64,
        seed: int = 0,
        validation: Annotated[int, AtLeast(0)] = 0,
        flip: bool = False,
    ):
        super().__init__(batch_size, seed, validation, flip)
        self.x = x
        self.cond = cond

    def load(self) -> Batch:
        found = read_tensors(self.x) if isinstance(self.x, str | Path) else {"x": self.x}
        cond = found.get("cond") if self.cond is None else self.cond
        if isinstance(cond, str | Path):
            cond = read_tensors(cond)["x"]
        x = as_tensor(found["x"])
        if x.ndim < 2 or not len(x):
            raise ValueError(f"x has shape (n, *shape), n at least 1; got {tuple(x.shape)}")
        finite = x.flatten(1).isfinite().all(1)
        if not finite.all():
            raise ValueError(f"sample {int(finite.int().argmin())} of x is not finite; correct it")
        cond = as_tensor(cond) if isinstance(cond, np.ndarray) else cond
        if isinstance(cond, Tensor) and not cond.is_floating_point():
            cond = cond.long()
        check(cond, len(x))
        return x, cond


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read "x", and of a .safetensors file perhaps "cond".

    Raises:
        ValueError: a file that is not there, of another kind, or that cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give one of .npy, .pt or .safetensors")
    try:
        match path.suffix:
            case ".npy":
                return {"x": as_tensor(np.load(path, allow_pickle=False))}
            case ".pt":
                return {"x": as_tensor(torch.load(path, weights_only=True))}
            case ".safetensors":
                return {"x": load_file(path)["x"], **load_file(path)}
    except KeyError as error:
        raise ValueError(f"{path} holds no tensor named x") from error
    except (OSError, ValueError, EOFError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    raise ValueError(f"{path} is no .npy, .pt or .safetensors file; save it as one")


def as_tensor(x: Tensor | np.ndarray) -> Tensor:
    """Make a tensor of an array. Raises ValueError for anything else."""
    found = torch.from_numpy(x) if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" else x
    if not isinstance(found, Tensor):
        raise ValueError(f"expected a tensor or an array of numbers; got a {type(x).__name__}")
    return found
