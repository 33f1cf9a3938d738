"""The prompts of a run: class labels, or texts, written in the config or read from a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from steer.build import build, resolve
from steer.flow_map import Cond
from steer.nearest import suggestion

TEXTS = ("prompt", "caption", "text")  # the columns of a .jsonl file that may hold the text


@dataclass(frozen=True)
class Prompts:
    """One condition for each prompt, or none at all, and a title of each for pictures."""

    cond: Cond
    titles: list[str]

    def __len__(self) -> int:
        return len(self.titles)


def prompts_of(config: DictConfig, device: torch.device) -> Prompts:
    """The prompts of a config.

    `prompt`, one text or a list of them, or `prompts`, a file of texts, take the place of
    `condition.labels`: numbers, names among `condition.names`, or texts. Without any of them there
    are `prompts` unconditional ones.

    Raises:
        ValueError: names the key, or the line of the file.
    """
    texts = texts_of(config)
    if texts is not None:
        return Prompts(texts, list(texts))
    labels = config.condition.labels
    names = names_of(config.condition.names)
    if labels is None:
        if config.prompts < 1:
            raise ValueError(f"prompts is at least 1; got {config.prompts}")
        return Prompts(None, [""] * config.prompts)
    if not labels:
        raise ValueError("condition.labels is empty; give one label per prompt, or null")
    if all(isinstance(label, str) for label in labels) and not names:
        return Prompts(list(labels), list(labels))
    if not names and len(kinds := {isinstance(label, str): label for label in labels}) > 1:
        raise ValueError(
            f"condition.labels holds numbers or texts; got {kinds[False]!r} and {kinds[True]!r}"
            " together: give one kind"
        )
    numbers = [number_of(label, names) for label in labels]
    titles = [names[k] if 0 <= k < len(names) else str(k) for k in numbers]
    return Prompts(torch.tensor(numbers, device=device), titles)


def texts_of(config: DictConfig) -> list[str] | None:
    """The texts of `prompt` or of the file `prompts`; None with neither."""
    in_file = isinstance(config.prompts, str)
    if config.get("prompt") is not None and in_file:
        raise ValueError(f"give prompt, or prompts={config.prompts}, not both")
    return read_prompts(Path(config.prompts)) if in_file else texts_at(config, "prompt")


def texts_at(config: DictConfig, key: str) -> list[str] | None:
    """The texts of a key: one, a list, or what its `_target_` returns; None without any."""
    node = config.get(key)
    if node is None:
        return None
    found = OmegaConf.to_container(node) if isinstance(node, DictConfig | ListConfig) else node
    if isinstance(found, dict):
        found = build(found, path=key)
    texts: list[Any] = found if isinstance(found, list) else [found]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{key} is a text, or a list of texts; got {text!r}: write one")
    return texts


def read_prompts(path: Path) -> list[str]:
    """Reads one prompt a line, of a text file or of a .jsonl file with a column for it.

    Raises:
        ValueError: no such file, an empty one, or a line that is blank or broken; gives its number.
    """
    if not path.is_file():
        raise ValueError(
            f"prompts={path}: there is no such file; give a number of unconditional prompts, or a"
            " file with one prompt a line"
        )
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    read = text_of_record if path.suffix in (".jsonl", ".json") else str.strip
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            text = read(line) if line.strip() else ""
        except ValueError as error:
            raise ValueError(f"prompts={path}, line {number}: {error}") from error
        if not text:
            raise ValueError(f"prompts={path}, line {number}: it is blank; write a prompt there")
        texts.append(text)
    return texts


def text_of_record(line: str) -> str:
    """The prompt of a line of JSON. Raises ValueError where there is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at column {error.colno})") from error
    columns = record if isinstance(record, dict) else {}
    found = next((columns[name] for name in TEXTS if name in columns), None)
    if not isinstance(found, str):
        raise ValueError(
            f'expected an object with one of {", ".join(TEXTS)}, as {{"prompt": "..."}}'
        )
    return found.strip()


def names_of(names: Any) -> list[str]:
    """The class names: a list, or the dotted name of one."""
    try:
        found = resolve(names) if isinstance(names, str) else names or []
    except ValueError as error:
        raise ValueError(f"condition.names: {error}") from error
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ValueError(
            "condition.names: it is a list of names, or where in Python one is; got a"
            f" {type(found).__name__}"
        )
    return [str(name) for name in found]


def number_of(label: Any, names: list[str]) -> int:
    """A class label, given as a number or by name."""
    if label in names:
        return names.index(label)
    if isinstance(label, int):
        return label
    raise ValueError(
        f"condition.labels holds numbers, or names among {', '.join(names)}; got"
        f" {label!r}{suggestion(label, names)}"
    )
