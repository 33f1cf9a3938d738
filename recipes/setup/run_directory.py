"""Run folders: one new folder for each run, with all that it makes.

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

opened: list[Path] = []  # the run folders of this process, the latest last
ANY = ("run", "trainer", "logger", "devices", "nodes", "trust")  # keys that results do not hang on
WORKER = "STEER_RUN_FOLDER"  # where the first process of a distributed run writes


def create(config: DictConfig) -> Path:
    """A new folder with config.yaml in it.

    run.dir, or the first of run.dir-2, run.dir-3, ... that does not exist.
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
    """Removes a new folder on a ValueError in the `with`, if it holds nothing but its config."""
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
        ValueError: there is none, or it was started with other settings, those of ANY apart.
    """
    if WORKER in os.environ:
        return Path(os.environ[WORKER])
    folder = to_resume(config)
    save(config, folder)
    return folder


def opened_for(config: DictConfig) -> Path:
    """The folder of a run: the one that run.resume goes on with, or a new one."""
    return resume(config) if config.run.resume else create(config)


def to_resume(config: DictConfig, free: Collection[str] = ()) -> Path:
    """The newest folder of that name, unchanged; its config may differ under the keys in `free`.

    Raises as `resume`.
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
            f"{folder} was started with other settings, of {changed}; resume with the same, or"
            " start anew"
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
    """The first key on which two configs differ, with both values; "" if there is none.

    The trainer's settings, the logger, the run's, the processes and those of the keys in `free` may
    differ.
    """
    for key in sorted((before.keys() | now.keys()) - {*ANY, *free}):
        if before.get(key) != now.get(key):
            return first_difference(before.get(key), now.get(key), key)
    return ""


def first_difference(before: Any, now: Any, path: str) -> str:
    """The first key at or below `path` on which two values differ, with both if they are short."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = min(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        return first_difference(before.get(key), now.get(key), f"{path}.{key}")
    words = f"{before!r} before, {now!r} now"
    return f"{path} ({words})" if len(words) < 80 else path


def names(wanted: Path) -> Iterator[Path]:
    """runs/x, runs/x-2, runs/x-3, ..."""
    yield wanted
    yield from (wanted.with_name(f"{wanted.name}-{k}") for k in count(2))


def made(path: Path) -> bool:
    """Makes the folder unless it exists, and returns whether it did."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turns an OSError in the `with` into a ValueError that says how to write elsewhere."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write the run folder {folder} ({error.strerror}); choose one with run.dir=..."
        ) from error


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Makes processes started in the `with` write into the same folder."""
    os.environ[WORKER] = str(folder)
    try:
        yield
    finally:
        del os.environ[WORKER]


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Writes metrics.json; NaN and infinities become null."""
    text = json.dumps(numbers_only(metrics), indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n")


def numbers_only(value: Any) -> Any:
    """The same with None for NaN (errors of one sample) and infinities (broken constraints)."""
    if isinstance(value, Mapping):
        return {key: numbers_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str | None]:
    """The versions that results depend on."""
    import torch

    try:
        ours = metadata.version("flowmap-steer")
    except metadata.PackageNotFoundError:  # run from a checkout
        ours = None
    return {"steer": ours, "torch": torch.__version__, "python": platform.python_version()}
