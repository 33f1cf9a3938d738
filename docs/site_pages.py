"""Pages of the site that are made from the code: methods, configs and the command's help.

A hook of MkDocs. Links of other pages to files outside docs/ are shown as code, since the site has
no such pages.
"""

import argparse
import inspect
import re
from collections.abc import Iterable
from html import unescape
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from recipes.cli import parser
from recipes.list import MODELS, ROOMS, Entry, Room, entries
from recipes.setup import config

ROOT = Path(__file__).parents[1]
TITLES = {
    "samplers": "Samplers",
    "rewards": "Rewards",
    "lookaheads": "Look-aheads",
    "guidance": "Guidance",
    "objectives": "Training objectives",
    "tuning": "Tuning objectives",
    "maps": "Maps",
    "networks": "Networks",
}
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">(.*?)</(?:span|div)>', re.DOTALL)
CONTRIBUTING = "CONTRIBUTING.md"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Shows links to files that the site does not have as code."""
    folder = (Path(config.docs_dir) / page.file.src_uri).parent
    top = "../" * page.file.src_uri.count("/")

    def shown(match: re.Match) -> str:
        target = (folder / match[2]).resolve()
        if target.name == CONTRIBUTING:
            return f"[{match[1]}]({top}contributing.md)"
        inside = target.is_relative_to(config.docs_dir)
        return match[0] if inside else f"{match[1]} (`{target.relative_to(ROOT)}`)"

    return OUTSIDE.sub(shown, markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Writes formulas as MathML, which browsers show without a script."""
    return FORMULA.sub(lambda match: mathml(match[1]), html)


def mathml(formula: str) -> str:
    r"""A formula in \( \) or \[ \] as MathML."""
    mode = "block" if formula.startswith(r"\[") else "inline"
    return latex2mathml.converter.convert(unescape(formula[2:-2]).strip(), display=mode)


def pages() -> Iterable[tuple[str, str]]:
    """Each page that is made: its path and its text."""
    for name, room in {**ROOMS, **MODELS}.items():
        found = list(entries(room))
        yield f"methods/{name}/index.md", overview(name, room, found)
        for entry in found:
            yield f"methods/{name}/{entry.name}.md", method(room, entry)
    yield "reference/command.md", commands()
    yield "reference/configs.md", configs()
    yield "contributing.md", (ROOT / CONTRIBUTING).read_text()


def overview(name: str, room: Room, found: list[Entry]) -> str:
    """A table of all entries of a room."""
    rows = [
        f"| [`{entry.name}`]({entry.name}.md) | {entry.claim} | {escaped(entry.summary)} |"
        for entry in found
    ]
    lines = [
        f"# {TITLES[name]}",
        f"In Python from `{room.package}`; in a config at `{room.key}`.",
        "\n".join(["| | claim | |", "|---|---|---|", *rows]),
    ]
    return "\n\n".join(lines) + "\n"


def method(room: Room, entry: Entry) -> str:
    """The page of one class or function."""
    found = entry.found
    written = f"{room.package}.{entry.name}"
    lines = [f"# {entry.name}"]
    if entry.claim:
        lines.append(f"Claim: **{entry.claim}**.")
    if module := inspect.getmodule(found):
        where = Path(inspect.getsourcefile(found) or "").relative_to(ROOT)
        about = inspect.cleandoc(module.__doc__ or "")
        lines += [f"`{where}`", escaped(about)]
    lines += [
        f"```yaml\n{room.key}:\n  _target_: {written}\n```",
        f"::: {found.__module__}.{found.__name__}",
    ]
    return "\n\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which Markdown sees no emphasis, link or HTML; indented lines are left alone."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("    "):
            parts = re.split(r"(`[^`]*`)", line)
            line = "".join(
                part if part.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", part)
                for part in parts
            )
        lines.append(line)
    return "\n".join(lines)


def commands() -> str:
    """The help of every command, with the keys of its configs."""
    steer = parser()
    parts = ["# The command", f"```\n{steer.format_help().rstrip()}\n```"]
    for name, command in choices(steer).items():
        parts += [f"## steer {name}", f"```\n{command.format_help().rstrip()}\n```"]
        keys = ROOT / f"recipes/configs/{name}.yaml"
        if keys.is_file():
            where = f"`recipes/configs/{name}.yaml`"
            parts += [f"Its keys ({where}):", f"```yaml\n{keys.read_text()}```"]
    return "\n\n".join(parts) + "\n"


def choices(steer: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands by name."""
    actions = [a for a in steer._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def configs() -> str:
    """Every shipped config."""
    parts = ["# Configs", "Run one as it is, or `steer copy NAME mine.yaml` and edit it."]
    for name in config.shipped():
        text = config.find(name).read_text()
        parts += [f"## {name}", escaped(config.first_comment(name)), f"```yaml\n{text}```"]
    return "\n\n".join(parts) + "\n"
