"""Where a run leaves what it made: a folder of its own, never one that was there before.

config.yaml, metrics.json, samples.safetensors, pictures and report.html; training adds
map.safetensors, last.ckpt (to resume from), log.csv and tensorboard/.
"""

import json
import math
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

opened: list[Path] = []  # the run folders that this process writes into, the last one last
WORKER = (
    "STEER_RUN_FOLDER"  # tells the other processes of a distributed run where the first one writes
)


def create(config: DictConfig) -> Path:
    """A new folder with config.yaml in it: run.dir, or the first of run.dir-2, run.dir-3, ... that
    is not taken.
    """
    if WORKER in os.environ:
        return Path(os.environ[WORKER])
    wanted = Path(config.run.dir)
    with naming(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        folder = next(path for path in names(wanted) if made(path))
    save(config, folder)
    return folder


@contextmanager
def dropped_if_refused(folder: Path) -> Iterator[None]:
    """Takes a new folder away again if what follows is refused (ValueError) before anything but its
    config was made.
    """
    try:
        yield
    except ValueError:
        if [path.name for path in folder.iterdir()] == ["config.yaml"]:
            (folder / "config.yaml").unlink()
            folder.rmdir()
        raise


def resume(config: DictConfig) -> Path:
    """The newest folder of that name, its config.yaml brought up to date.

    Raises:
        ValueError: there is none, or it was started with other settings, `run` and `trainer` apart.
    """
    if WORKER in os.environ:
        return Path(os.environ[WORKER])
    folder = to_resume(config)
    save(config, folder)
    return folder


def to_resume(config: DictConfig, free: Collection[str] = ()) -> Path:
    """The newest folder of that name, as it is; under the keys in `free` its config may say
    anything. Raises as `resume`.
    """
    folder = newest(Path(config.run.dir))
    if folder is None:
        raise ValueError(
            f"there is no run {config.run.dir} to resume; start it without run.resume=true"
        )
    before, now = (
        OmegaConf.to_container(c) for c in (OmegaConf.load(folder / "config.yaml"), config)
    )
    if changed := difference(before, now, free):
        raise ValueError(
            f"{folder} was started with other settings, of {changed}; resume with the same, or start anew"
        )
    return folder


def save(config: DictConfig, folder: Path) -> None:
    """Writes config.yaml."""
    opened.append(folder)
    with naming(folder):
        OmegaConf.save(config, folder / "config.yaml")


def newest(wanted: Path) -> Path | None:
    """The folder of that name with the highest number, among those that hold a config."""
    numbered = re.compile(re.escape(wanted.name) + r"(?:-(\d+))?")
    runs = {
        int(match[1] or 1): path
        for path in wanted.parent.glob("*")
        if (match := numbered.fullmatch(path.name)) and (path / "config.yaml").is_file()
    }
    return runs[max(runs)] if runs else None


def difference(before: Any, now: Any, free: Collection[str] = ()) -> str:
    """The first key on which two configs differ, with both values, or nothing; how long to train
    and where may differ.
    """
    keys = (before.keys() | now.keys()) - {"run", "trainer", *free}
    return next(
        (
            told(before.get(key), now.get(key), key)
            for key in sorted(keys)
            if before.get(key) != now.get(key)
        ),
        "",
    )


def told(before: Any, now: Any, path: str) -> str:
    """Where below that key two values first differ, and how, if it can be said in a few words."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = min(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        return told(before.get(key), now.get(key), f"{path}.{key}")
    words = f"{before!r} before, {now!r} now"
    return f"{path} ({words})" if len(words) < 80 else path


def names(wanted: Path) -> Iterator[Path]:
    """runs/x, runs/x-2, runs/x-3, ..."""
    yield wanted
    yield from (wanted.with_name(f"{wanted.name}-{k}") for k in count(2))


def made(path: Path) -> bool:
    """Makes the folder, unless it is there; whether it did."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into a line that says where to write instead."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write the run folder {folder} ({error.strerror}); choose one with run.dir=..."
        ) from error


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Inside the `with`, processes started by this one write into the same folder."""
    os.environ[WORKER] = str(folder)
    try:
        yield
    finally:
        del os.environ[WORKER]


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """metrics.json; what is not a number there is null."""
    text = json.dumps(numbers_only(metrics), indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n")


def numbers_only(value: Any) -> Any:
    """NaN, the error of a single sample, and infinities, those of a broken constraint, as None."""
    if isinstance(value, Mapping):
        return {key: numbers_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str | None]:
    """Of what the figures depend on."""
    import torch

    try:
        ours = metadata.version("flowmap-steer")
    except metadata.PackageNotFoundError:  # run from a checkout
        ours = None
    return {"steer": ours, "torch": torch.__version__, "python": platform.python_version()}
