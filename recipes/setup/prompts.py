"""The prompts of a run: class labels, or texts, written in the config or read from a file.

A file of prompts is one text a line (.txt), one JSON object a line (.jsonl), or a table with a
header (.csv and .tsv). Columns beside the text go to reward and model as fields of a
steer.Condition, by their names in lower case. So DrawBench (.csv), PartiPrompts (.tsv) and the
metadata of GenEval (.jsonl) are read as they are published.

A column holds one kind: numbers, texts, truth values, lists or objects. In a table its first cell
says which, a number or a text.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from steer.build import build, resolve
from steer.conditions import Condition
from steer.flow_map import Cond
from steer.nearest import suggestion

TEXTS = ("prompt", "prompts", "caption", "text")  # the columns that may hold the text
Record = dict[str, Any]


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
    if isinstance(texts, Condition):
        return Prompts(texts.to(device), list(texts.texts))
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


def texts_of(config: DictConfig) -> list[str] | Condition | None:
    """The texts of `prompt` or of the file `prompts`, with its columns; None with neither."""
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


def read_prompts(path: Path) -> list[str] | Condition:
    """Reads the prompts of a file, with the columns beside the text if there are any.

    Raises:
        ValueError: no such file, an empty one, or a line that is blank or broken; gives its number.
    """
    if not path.is_file():
        raise ValueError(
            f"prompts={path}: there is no such file; give a number of unconditional prompts, or a"
            " file with one prompt a line"
        )
    texts = []
    records = []
    lines = []
    number = 1
    kinds: Kinds = {}
    try:
        for line, record in READERS.get(path.suffix, of_text)(path):
            number = line
            text, columns = told_apart(record)
            check_kinds(columns, kinds)
            texts.append(text)
            records.append(columns)
            lines.append(line)
            number += 1
        columns = columns_of(records)
        if gap := first_gap(records, kinds):
            name, k = gap
            number = lines[k]
            raise ValueError(f"the column {name!r} holds numbers, and none here; write one")
    except ValueError as error:
        raise ValueError(f"prompts={path}, line {number}: {error}") from error
    if not texts:
        raise ValueError(f"prompts={path}, line 1: it is blank; write a prompt there")
    return Condition(texts=texts, **columns) if columns else texts


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file. Raises ValueError for one that is blank."""
    for line in path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"):
        if not line.strip():
            raise ValueError("it is blank; write a prompt there")
        yield line


def of_text(path: Path) -> Iterator[tuple[int, Record]]:
    """One text a line, each with its number, counted from one."""
    yield from ((number, {"prompt": line}) for number, line in enumerate(lines_of(path), 1))


def of_json_lines(path: Path) -> Iterator[tuple[int, Record]]:
    """One JSON object a line. Raises ValueError for anything else."""
    for number, line in enumerate(lines_of(path), 1):
        try:
            record = json.loads(line, object_pairs_hook=distinct)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise ValueError(without_text())
        yield number, record


def distinct(pairs: Sequence[tuple[str, Any]]) -> Record:
    """An object of JSON. Raises ValueError for one that gives a name twice."""
    found: Record = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {name!r} twice; leave one out")
        found[name] = value
    return found


def of_table(path: Path, dialect: type[csv.Dialect]) -> Iterator[tuple[int, Record]]:
    """The rows of a table by its header, each with its last line. Raises ValueError without one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, dialect=dialect)
        header = rows.fieldnames or []
        if not {name.strip().lower() for name in header} & {*TEXTS}:
            raise ValueError(f"expected a header with one of {', '.join(TEXTS)}; got {[*header]!r}")
        called(header)
        numbers: set[str] | None = None
        for row in rows:
            if None in row:  # where csv puts what is beyond the header
                raise ValueError(
                    "it has more columns than the header; put quotation marks around commas"
                )
            if None in row.values():
                raise ValueError(
                    f"it has fewer columns than the header, {', '.join(header)}; leave a cell blank"
                    " instead"
                )
            if numbers is None:
                numbers = {name for name, cell in row.items() if NUMBER.fullmatch(cell)}
            yield rows.line_num, {n: cell_of(c, n in numbers) for n, c in row.items()}


NUMBER = re.compile(r"\s*[-+]?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?\s*")  # 007 is a text


def cell_of(cell: str, number: bool) -> Any:
    """A cell of a table; None for a blank one where there are numbers."""
    if not number or not NUMBER.fullmatch(cell):
        return None if number and not cell.strip() else cell
    return json.loads(cell.strip().lstrip("+"))


class Tabbed(csv.excel_tab):
    """Columns between tabs, in which a quotation mark is one."""

    quoting = csv.QUOTE_NONE


READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Record]]]] = {
    ".jsonl": of_json_lines,
    ".json": of_json_lines,
    ".csv": lambda path: of_table(path, csv.excel),
    ".tsv": lambda path: of_table(path, Tabbed),
}


TAKEN = {"texts", *(name for name in dir(Condition) if not name.startswith("__"))}


def called(names: Iterable[str]) -> dict[str, str]:
    """The columns by what they are called here, with their names in the file.

    Raises:
        ValueError: two that would be called alike, or one that is called as something of ours.
    """
    found: dict[str, str] = {}
    for name in names:
        own = re.sub(r"\W", "_", name.strip().lower())
        if own in found:
            raise ValueError(f"two columns are called {own!r}, {found[own]!r} and {name!r}: rename")
        found[own] = name
    text = next((own for own in TEXTS if own in found), None)
    for own in found:
        masks = own == "mask" or own.endswith("_mask")
        if own != text and (not own.isidentifier() or own in TAKEN or masks):
            raise ValueError(f"a column cannot be called {own!r}: rename it")
    return found


def told_apart(record: Record) -> tuple[str, Record]:
    """The prompt of a record, and its other columns. Raises ValueError without a prompt."""
    columns = {own: record[name] for own, name in called(record).items()}
    name = next((name for name in TEXTS if name in columns), None)
    text = None if name is None else columns.pop(name)
    if not isinstance(text, str):
        raise ValueError(without_text())
    if not text.strip():
        raise ValueError("it is blank; write a prompt there")
    return text.strip(), columns


def without_text() -> str:
    """What is said of a line without a prompt."""
    return f'expected an object with one of {", ".join(TEXTS)}, as {{"prompt": "..."}}'


Kinds = dict[str, str]
KINDS = {
    bool: "a truth value",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def check_kinds(columns: Record, kinds: Kinds) -> None:
    """Raises ValueError for a value of another kind than its column has; keeps those of new ones.

    Args:
        columns: of one record; None is of no kind.
        kinds: of the records before.
    """
    for name, value in columns.items():
        if value is None:
            continue
        kind = KINDS[type(value)]
        before = kinds.setdefault(name, kind)
        if kind != before:
            raise ValueError(
                f"the column {name!r} holds {kind}, {value!r}, where lines before have {before};"
                " give one kind"
            )


def first_gap(records: Sequence[Record], kinds: Kinds) -> tuple[str, int] | None:
    """The first column of numbers without one, with the place of its record; None without any."""
    return next(
        (
            (name, k)
            for name, kind in kinds.items()
            if kind == "a number"
            for k, record in enumerate(records)
            if record.get(name) is None
        ),
        None,
    )


def columns_of(records: Sequence[Record]) -> dict[str, Any]:
    """The columns of all records: numbers as a tensor, and anything else as texts.

    A text is itself, what a record lacks is an empty one, and lists and objects are JSON.
    """
    names = dict.fromkeys(name for record in records for name in record)
    return {name: column([record.get(name) for record in records]) for name in names}


def column(values: Sequence[Any]) -> Tensor | list[str]:
    """One column, see `columns_of`."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        return torch.tensor(values)
    return ["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]


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
