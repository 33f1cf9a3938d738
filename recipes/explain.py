"""steer COMMAND CONFIG --help: the keys of a config, with their values and meanings."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recipes.list import WIDTH, argument, first_line, wrapped
from recipes.setup import config
from steer.annotations import annotated, handed_on
from steer.build import resolve

COLUMN = 38  # of the meanings
COMMENT = re.compile(r"^( *)([\w-]+):(.*?)(?:\s#\s*(.*))?$")


def explained(command: str, name: str, overrides: Iterable[str] = ()) -> str:
    """The keys of a config under the command line: each with its value, and what it means.

    Args:
        command: that the config is for.
        name: of the config.
        overrides: as in `config.load`.

    Raises:
        ValueError: as `config.load`, apart from keys that have no value yet.
    """
    merged = config.with_targets(command, config.combined(command, name, overrides))
    meanings = comments(config.CONFIGS / f"{command}.yaml")
    lines = [
        f"steer {command} {name} [key=value ...]",
        "",
        wrapped(config.first_comment(name), ""),
        "",
    ]
    for key, value in merged.items():
        lines += described(key, value, meanings, 0)
    return "\n".join([*lines, "", *HOW])


HOW = (
    "??? has no value yet. An object is chosen by its dotted name, as in",
    "sampler=steer.samplers.Sde sampler.steps=50; `steer list KIND` shows what there is.",
)


def described(key: str, value: Any, meanings: Mapping[str, str], depth: int) -> Iterator[str]:
    """The lines of a key, and of what is below it."""
    indent = "  " * depth
    name = key.rpartition(".")[2]
    meaning = meanings.get(key, "")
    if not isinstance(value, dict) or not value:
        yield from entry(indent, f"{name}: {written(value)}", meaning)
        return
    target = value.get("_target_")
    yield from entry(indent, f"{name}: {target or ''}".rstrip(), meaning)
    known = {} if target is None else arguments_of(str(target))
    inner = {**meanings, **{f"{key}.{one}": known[one] for one in known}}
    for one, item in value.items():
        if one != "_target_":
            yield from described(f"{key}.{one}", item, inner, depth + 1)
    if target is not None and (rest := defaults_of(str(target), value)):
        yield wrapped(f"by default {', '.join(rest)}", f"{indent}  ")


def entry(indent: str, said: str, meaning: str) -> Iterator[str]:
    """A key and its value, with the meaning beside it."""
    left = f"{indent}{said}"
    lines = textwrap.wrap(meaning, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
    if len(left) > COLUMN - 2 or not lines:
        yield left
    else:
        yield f"{left:{COLUMN}}{lines.pop(0)}"
    yield from (f"{'':{COLUMN}}{line}" for line in lines)


def written(value: Any) -> str:
    """A value as it is written in a config."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(short(item) for item in value)}]"
    return str(value)


def short(value: Any) -> str:
    """An item of a list; of a node, its target alone."""
    return str(value.get("_target_", "{...}")) if isinstance(value, dict) else written(value)


def arguments_of(target: str) -> dict[str, str]:
    """What the docstrings of a class, or of what it hands its keywords to, say of its arguments."""
    try:
        found = resolve(target)
    except ValueError:
        return {}
    owners = found.__mro__ if isinstance(found, type) else [*handed_on(found)]
    return {
        name: text
        for owner in reversed(owners)
        for name, text in documented(owner.__doc__ or "").items()
    }


def documented(doc: str) -> dict[str, str]:
    """The arguments that a docstring describes, each in one line."""
    section = re.search(r"^    Args:\n(.*?)(?:\n\s*\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    text = re.sub(r"\n {9,}", " ", section.group(1))  # lines that go on
    found = re.findall(r"^\s*([\w*, ]+?): (.*)$", text, re.MULTILINE)
    return {
        name.strip(" *"): first_line(said) for names, said in found for name in names.split(",")
    }


def defaults_of(target: str, given: Mapping[str, Any]) -> list[str]:
    """The arguments of a target that a node leaves out, with their defaults."""
    try:
        known = annotated(resolve(target))
    except ValueError:
        return []
    return [
        argument(one)
        for name, one in known.items()
        if name not in given and one.default is not one.empty
    ]


def comments(path: Any) -> dict[str, str]:
    """The comment behind each key of a YAML file of defaults, by the dotted key."""
    found = {}
    above: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        match = COMMENT.match(line)
        if match is None:
            continue
        depth = len(match[1])
        above = [(d, key) for d, key in above if d < depth]
        above.append((depth, match[2]))
        if match[4]:
            found[".".join(key for _, key in above)] = match[4]
    return found
