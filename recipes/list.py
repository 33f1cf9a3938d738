"""steer list: what is shipped, and what configs can name."""

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from recipes.cli import KINDS
from recipes.setup import config
from rewards import checkpoint as networks
from steer import checkpoint as maps
from steer.discovery import exports
from steer.nearest import suggestion

WIDTH = 100


@dataclass(frozen=True)
class Room:
    """A package whose classes configs name.

    Args:
        package: where they are.
        bases: dotted names of the classes that they are derived from.
        key: the key of a config that takes one.
    """

    package: str
    bases: tuple[str, ...]
    key: str


ROOMS = {
    "samplers": Room("steer.samplers", ("steer.samplers.Sampler",), "sampler"),
    "rewards": Room("rewards", ("rewards.Reward",), "reward"),
    "lookaheads": Room("steer.lookahead", ("steer.lookahead.Lookahead",), "sampler.lookahead"),
    "guidance": Room(
        "steer.guidance", ("steer.guidance.Guidance", "steer.flow_map.FlowMap"), "guidances"
    ),
    "objectives": Room(
        "steer.training",
        ("steer.training.Objective", "steer.training.PairObjective"),
        "loop.objective",
    ),
    "tuning": Room("steer.tuning", ("steer.tuning.TuningObjective",), "loop.objective"),
}
MODELS = {
    "maps": Room("steer.maps", ("steer.flow_map.FlowMap",), "model"),
    "networks": Room("steer.networks", ("torch.nn.Module",), "model.network"),
}
DATA = Room("steer.data", ("steer.data.StreamData",), "data")  # loads Lightning


@dataclass(frozen=True)
class Entry:
    """A class that a config can name, or a function that builds one."""

    name: str
    found: Any

    @property
    def summary(self) -> str:
        """The summary of its docstring."""
        return first_line(self.found.__doc__)

    @property
    def claim(self) -> str:
        """What the class claims of its samples, or that it has no gradient; "" for neither.

        A claim that depends on the arguments is a property, whose docstring says how.
        """
        kind = built_by(self.found)
        if getattr(kind, "differentiable", True) is False:
            return "no gradient"
        claim = getattr(kind, "claim", "")
        if isinstance(claim, property):
            return first_line(claim.__doc__) or "claim by its arguments"
        return claim if isinstance(claim, str) else ""

    @property
    def arguments(self) -> str:
        """The names of its arguments, with their defaults."""
        if getattr(self.found, "__init__", None) is nn.Module.__init__:
            return ""
        parameters = inspect.signature(self.found).parameters.values()
        return ", ".join(argument(each) for each in parameters)


def listing(kind: str | None = None) -> str:
    """What there is of a kind, or an overview of all.

    Args:
        kind: one of KINDS, or None.

    Raises:
        ValueError: another kind.
    """
    if kind is None:
        return overview()
    if kind == "configs":
        return "\n".join(["configs, for steer COMMAND NAME", "", *config_lines()])
    if kind == "models":
        return "\n\n".join([shipped(), *(detailed(name, MODELS[name]) for name in MODELS)])
    if kind == "data":
        return detailed(kind, DATA)
    if kind in MODELS:
        return detailed(kind, MODELS[kind])
    if kind not in ROOMS:
        near = suggestion(kind, KINDS) or f"; there are: {', '.join(KINDS)}"
        raise ValueError(f"there is no list of {kind!r}{near}")
    return detailed(kind, ROOMS[kind])


def overview() -> str:
    """Configs, maps and classifiers, and the names of all rooms."""
    blocks = ["\n".join(["configs", *config_lines()]), shipped()]
    for title, room in {**ROOMS, **MODELS}.items():
        names = ", ".join(entry.name for entry in entries(room))
        blocks.append(f"{title}, in {room.package}\n{wrapped(names, '  ')}")
    blocks.append(f"steer list KIND shows more; KIND is one of\n{wrapped(', '.join(KINDS), '  ')}")
    return "\n\n".join(blocks)


def config_lines() -> list[str]:
    """The shipped configs, each with its first comment."""
    names = config.shipped()
    width = max(map(len, names)) + 2
    return [shortened(f"  {name:{width}}{config.first_comment(name)}") for name in names]


def shipped() -> str:
    """The shipped maps, classifiers and CLIPs."""
    lines = ["shipped maps, for model=NAME or steer.load", *notes_of(maps.WEIGHTS, maps.shipped())]
    lines += ["", "shipped classifiers, for rewards.load_classifier"]
    lines += notes_of(networks.WEIGHTS, networks.shipped())
    if clips := networks.shipped(networks.CLIP):
        lines += ["", "shipped CLIPs, for rewards.ClipScore", *notes_of(networks.WEIGHTS, clips)]
    return "\n".join(lines)


def notes_of(folder: Path, names: list[str]) -> list[str]:
    """Each name with the title of the notes beside its weights."""
    width = max(map(len, names), default=0) + 2
    return [f"  {name:{width}}{title_of(folder / f'{name}.md')}".rstrip() for name in names]


def title_of(notes: Path) -> str:
    """The title of a page of notes, without the name it begins with."""
    title = notes.read_text().splitlines()[0] if notes.exists() else ""
    return title.partition(": ")[2]


def detailed(title: str, room: Room) -> str:
    """Each entry of a room: name, one line, claim and arguments."""
    lines = [f"{title}, as in {room.key}._target_={room.package}.NAME"]
    for entry in entries(room):
        claim = f" [{entry.claim}]" if entry.claim else ""
        lines += ["", wrapped(f"{entry.name}{claim}: {entry.summary}", "  ")]
        if entry.arguments:
            lines.append(wrapped(entry.arguments, "      "))
    return "\n".join(lines)


def entries(room: Room) -> Iterator[Entry]:
    """What a package exports that can be built.

    Concrete classes of its bases, and functions that return one.
    """
    bases = tuple(resolved(name) for name in room.bases)
    package = import_module(room.package)
    for name, module in sorted(exports(room.package, Path(next(iter(package.__path__))))):
        found = getattr(import_module(module), name)
        kind = built_by(found)
        if isinstance(kind, type) and issubclass(kind, bases) and not inspect.isabstract(kind):
            yield Entry(name, found)


def built_by(found: Any) -> Any:
    """The class itself, or the class that a function is annotated to return; None for others."""
    if isinstance(found, type):
        return found
    return get_type_hints(found).get("return") if inspect.isfunction(found) else None


def resolved(name: str) -> type:
    """The class of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def argument(parameter: inspect.Parameter) -> str:
    """An argument as it is written: its name, and its default if it has one."""
    starred = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    stars = next((stars for kind, stars in starred.items() if kind == parameter.kind), "")
    if parameter.default is parameter.empty:
        return stars + parameter.name
    return f"{parameter.name}={default(parameter.default)}"


def default(value: Any) -> str:
    """A default in short: plain values as they are written, objects by their class."""
    if value is None or isinstance(value, bool | int | float | str | tuple | list):
        return repr(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    return f"{type(value).__name__}()"


def first_line(text: str | None) -> str:
    """The summary of a docstring: its first paragraph, on one line."""
    paragraph = inspect.cleandoc(text or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def shortened(line: str) -> str:
    """A line cut to the width of the page."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 2].rstrip()} …"


def wrapped(text: str, indent: str) -> str:
    """Text in lines of the width of the page, indented."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
