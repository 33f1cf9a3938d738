"""Parts of the prompts of a run, each kept in the run folder as soon as it is finished.

A part is one safetensors file, parts/<its first prompt>.safetensors, which is there whole or not at
all; what is no tensor is JSON in its header. A run that was stopped finds the finished parts and
goes on with the others.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.setup import run_directory
from recipes.setup.processes import Processes

WIDTH = 5  # digits of the first prompt's number
ALIGNED = 8  # bytes, of the header of a safetensors file
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class Parts:
    """The parts of a run.

    Args:
        folder: of the run.
        prompts: how many there are.
        at_once: the most prompts of a part.
    """

    folder: Path
    prompts: int
    at_once: int

    @property
    def all(self) -> list[range]:
        """The prompts of each part, in order."""
        starts = range(0, self.prompts, self.at_once)
        return [range(k, min(k + self.at_once, self.prompts)) for k in starts]

    @property
    def home(self) -> Path:
        """The folder of the parts."""
        return self.folder / "parts"

    @property
    def begun(self) -> bool:
        """Whether a part is finished."""
        return any(self.home.glob("*.safetensors"))

    def path(self, part: range) -> Path:
        """The file of a part."""
        return self.home / f"{part.start:0{WIDTH}}.safetensors"

    def left(self, report: str) -> list[range] | None:
        """The parts that are not finished, or None where all were joined and dropped.

        Args:
            report: a file of the run folder that is written before they are dropped.
        """
        if (self.folder / report).exists() and not self.home.exists():
            return None
        return [part for part in self.all if not self.path(part).exists()]

    def title(self, name: str, part: range) -> str:
        """What is drawn, and for which prompts where there are several parts."""
        if len(self.all) == 1:
            return name
        return f"{name}, prompts {part.start + 1} to {part.stop} of {self.prompts}"

    def keep(self, part: range, tensors: Mapping[str, Tensor], figures: Mapping[str, Any]) -> None:
        """Writes a finished part, whole or not at all."""
        self.home.mkdir(exist_ok=True)
        path = self.path(part)
        scratch = path.with_suffix(".tmp")
        save_file(
            {n: own(x) for n, x in tensors.items()}, scratch, {"figures": json.dumps(figures)}
        )
        os.replace(scratch, path)

    def figures(self) -> list[Any]:
        """What is no tensor, of each part in order."""
        return [figures_of(self.path(part)) for part in self.all]

    def names(self) -> list[str]:
        """The names of the tensors, the same in every part."""
        with safe_open(self.path(self.all[0]), "pt") as file:
            return list(file.keys())

    def read(self, name: str) -> list[Tensor]:
        """A tensor of every part, in order."""
        return list(self.each(name))

    def each(self, name: str) -> Iterator[Tensor]:
        """A tensor of one part after another."""
        for part in self.all:
            with safe_open(self.path(part), "pt") as file:
                yield file.get_tensor(name)

    def first(self, name: str, prompts: int) -> Tensor:
        """The rows of a tensor that belong to the first prompts, from the parts that hold them."""
        rows = []
        for part in self.all:
            if part.start >= prompts:
                break
            with safe_open(self.path(part), "pt") as file:
                rows.append(file.get_slice(name)[: prompts - part.start])
        return torch.cat(rows)

    def join(self, names: Mapping[str, str], path: Path) -> None:
        """Writes tensors of all parts into one safetensors file, a part at a time.

        Args:
            names: what a tensor is called there -> its name in the parts.
            path: of the file, which is there whole or not at all.
        """
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            write_header(file, {new: self.layout(old) for new, old in names.items()})
            for name in names.values():
                for tensor in self.each(name):
                    file.write(bytes_of(tensor))
        os.replace(scratch, path)

    def layout(self, name: str) -> tuple[torch.dtype, list[int]]:
        """The precision and the shape of a tensor over all parts."""
        with safe_open(self.path(self.all[0]), "pt") as file:
            one = file.get_slice(name)
            shape = [self.prompts, *one.get_shape()[1:]]
            return one[:0].dtype, shape

    def drop(self) -> None:
        """Removes them, once the run folder has all that they hold."""
        shutil.rmtree(self.home)


def figures_of(path: Path) -> Any:
    """What is no tensor in the file of a part."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["figures"])


def write_header(file: BinaryIO, layouts: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
    """The head of a safetensors file whose tensors follow in this order."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in layouts.items():
        start = end
        end += torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    file.write(len(text).to_bytes(ALIGNED, "little"))
    file.write(text)


def bytes_of(tensor: Tensor) -> bytes:
    """The numbers of a tensor as they lie in memory."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def own(x: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with no other tensor, as safetensors requires."""
    return x.detach().cpu().contiguous().clone()


def opened(
    config: DictConfig, prompts: int, processes: Processes
) -> tuple[Parts, list[range] | None]:
    """Opens the run folder of all processes.

    Returns:
        Its parts, and those that are missing; None in their place where the run had finished, in
        the first process, in which alone it then goes on.
    """
    folder = processes.of_first(partial(run_directory.opened_for, config))
    parts = Parts(folder, prompts, config.prompts_at_once)
    missing = processes.of_first(partial(parts.left, "metrics.json"))
    if missing is None:
        processes.leave()
    return parts, missing
