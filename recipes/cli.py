"""The command `steer`; slow imports are left to the command that needs them."""

import argparse
import shlex
import signal
import sys
import sysconfig
import threading
import tomllib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from recipes.setup.memory import ran_out
from recipes.verification.errors import ClaimFailed

EPILOG = """\
CONFIG is a shipped name, such as ring/steer, or the path of a YAML file; its keys can be set, as in
  steer sample fashion/steer tilt.scale=5 reward=my_file.py:my_function
`steer list` shows what is shipped, `steer list samplers` what a key can be set to,
`steer sample fashion/steer --help` the keys of a config and what they mean, and
`steer copy fashion/steer mine.yaml` gives a config of one's own to edit."""

RUNS = {
    "sample": "draw samples that a reward steers, beside unsteered ones",
    "train": "learn a flow map, or a classifier, from data",
    "tune": "tune a flow map to a reward",
    "compare": "compare several methods at equal evaluations",
    "evaluate": "compare the samples of a flow map with data",
    "verify": "test a sampler against known laws; exit code 1 if it claims to be exact and fails",
}

LIST = "show the shipped configs and models, and the samplers, rewards, ... that configs can name"
KINDS = (
    "samplers",
    "rewards",
    "lookaheads",
    "guidance",
    "objectives",
    "tuning",
    "models",
    "data",
    "configs",
)

SHELLS = ("bash", "zsh", "fish")

SMALLER = "lower particles, prompts, max_batch, data.batch_size or the size of the model"

# What a stopped run resumes from, and its files.
RESUMED_FROM = {
    "train": ("checkpoint", "last.ckpt"),
    "tune": ("checkpoint", "last.ckpt"),
    "compare": ("cell", "cells/*.json"),
    "sample": ("finished part", "parts/*.safetensors"),
    "evaluate": ("finished part", "parts/*.safetensors"),
}


class OneLine(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"steer: error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    steer = OneLine(
        "steer",
        description="Train flow maps, steer them with a reward, and tune them to it.",
        epilog=EPILOG,
    )
    steer.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = steer.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, what in RUNS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"steer {name} CONFIG --help shows the keys of a config, and what they mean",
            add_help=False,
        )
        command.add_argument(
            "config", metavar="CONFIG", nargs="?", help="a shipped name or the path of a YAML file"
        )
        command.add_argument(
            "-h", "--help", action="store_true", help="show this, or the keys of a config"
        )
        command.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the config"
        )
        command.add_argument(
            "--quiet",
            action="store_true",
            help="no progress; print the run folder and nothing else",
        )
    steer.add_argument("--version", action="version", version=f"steer {version()}")
    listing = commands.add_parser("list", help=LIST, description=f"{LIST[0].upper()}{LIST[1:]}.")
    listing.add_argument(
        "kind", metavar="KIND", nargs="?", help=f"one of {', '.join(KINDS)}; all, in short, without"
    )
    copy = commands.add_parser("copy", help="copy a shipped config, to edit it")
    copy.add_argument("name", metavar="NAME")
    copy.add_argument("dest", metavar="DEST", type=Path, help="a new file, or a folder")
    shell = commands.add_parser("completion", help="print a script that completes commands")
    shell.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    for command in commands.choices.values():
        command.add_argument(
            "--traceback", action="store_true", help="show where in the code an error arose"
        )
    return steer


def version() -> str:
    """The version that is installed, or that of pyproject.toml in a checkout."""
    try:
        return metadata.version("flowmap-steer")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        return str(project["project"]["version"])


def refuse_options(
    arguments: argparse.Namespace, rest: Sequence[str], words: Sequence[str]
) -> None:
    """Ends with one line for options that do not exist, and for a CONFIG that is missing."""
    unknown = [word for word in rest if word.startswith("-") or arguments.command not in RUNS]
    dashed = [word for word in unknown if word.startswith("--") and "=" in word]
    if dashed and arguments.command in RUNS:
        parser().error(f"keys have no dashes: write {dashed[0].lstrip('-')}, not {dashed[0]}")
    spaced = [(key, value) for key, value in pairwise(words) if apart(key, value)]
    if unknown and spaced and arguments.command in RUNS and spaced[0][0] in unknown:
        key, value = spaced[0]
        parser().error(f"keys have no dashes: write {key[2:]}={value}, not {key} {value}")
    if unknown:
        parser().error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.command in RUNS and arguments.config is None and not arguments.help:
        parser().error(f"steer {arguments.command} needs a CONFIG; `steer list configs` shows them")


def apart(key: str, value: str) -> bool:
    """Whether two words are --key value, which is written key=value."""
    return key.startswith("--") and "=" not in key + value and not value.startswith("--")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 for success, 1 for a claim that fails, 2 for bad input, 3 for an unexpected exception (most
    often in the user's own file), 130 when interrupted, 143 when terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser().parse_known_args(words)  # key=value may follow options
    refuse_options(arguments, rest, words)
    warnings.formatwarning = one_line
    try:
        with terminating():
            run(arguments, rest, "steer " + shlex.join(words))
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if stop.args == (signal.SIGTERM,) else signal.SIGINT
        what = "terminated" if number == signal.SIGTERM else "interrupted"
        print(f"steer: {what}{how_to_resume(words)}", file=sys.stderr)
        return 128 + number
    except ClaimFailed as failed:
        print(failed.folder)
        print(f"steer: {failed}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"steer: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:
        if arguments.traceback:
            raise
        if ran_out(error):
            print(f"steer: error: not enough memory ({SMALLER})", file=sys.stderr)
            return 2
        print(f"steer: error: {unforeseen(error)}", file=sys.stderr)
        return 3
    return 0


@contextmanager
def terminating() -> Iterator[None]:
    """A context in which SIGTERM raises KeyboardInterrupt(SIGTERM), as Ctrl-C does without it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, *_: Any) -> NoReturn:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as it is printed."""
    return f"steer: warning: {' '.join(str(message).split())}\n"


def run(arguments: argparse.Namespace, rest: list[str], command: str) -> None:
    """Runs the command of parsed arguments and prints what it returns.

    Args:
        arguments: of the command line.
        rest: overrides that stood after options.
        command: the command line as it was typed.
    """
    if arguments.command == "list":
        from recipes.list import listing

        print(listing(arguments.kind))
    elif arguments.command == "completion":
        from recipes.completion import script

        print(script(arguments.shell))
    elif arguments.command in RUNS and arguments.help and arguments.config is None:
        print(usage(arguments.command))
    elif arguments.command in RUNS and arguments.help:
        from recipes.explain import explained

        print(explained(arguments.command, arguments.config, [*arguments.overrides, *rest]))
    elif arguments.command == "copy":
        from recipes.copy import copy

        print(copy(arguments.name, arguments.dest))
    else:
        from recipes.setup.config import load
        from recipes.setup.job import Job
        from steer.checkpoint import trusting

        config = load(arguments.command, arguments.config, [*arguments.overrides, *rest])
        recipe = getattr(import_module(f"recipes.{arguments.command}"), arguments.command)
        with trusting(config.get("trust") or []):
            print(recipe(Job(config, command, arguments.quiet)))


def usage(command: str) -> str:
    """The help of a command without a config."""
    actions = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return next(actions).choices[command].format_help().rstrip()


def unforeseen(error: Exception) -> str:
    """An unexpected exception in one line.

    Its kind, its message and the last place outside installed packages.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not installed(frame.filename)] or frames
    message = " ".join(str(error).split()) or "no message"
    return (
        f"{type(error).__name__} at {ours[-1].filename}:{ours[-1].lineno}, in {ours[-1].name}:"
        f" {message};"
        " --traceback shows the way there"
    )


def installed(file: str) -> bool:
    """Whether a source file belongs to Python or to an installed package."""
    path = Path(file)
    in_package = bool({"site-packages", "dist-packages"} & {*path.parts})
    in_stdlib = path.is_relative_to(sysconfig.get_path("stdlib"))
    return file.startswith("<") or in_package or in_stdlib


def how_to_resume(words: Sequence[str]) -> str:
    """The command that resumes an interrupted run, if there is something to resume from."""
    what, files = RESUMED_FROM.get(words[0], ("", ""))
    folders = sys.modules.get("recipes.setup.run_directory")  # None before a recipe imported it
    opened = getattr(folders, "opened", [])
    if not what or not opened or not any(opened[-1].glob(files)):
        return "; nothing of it was kept"
    again = [word for word in words if not word.startswith("run.resume=")]
    return f"; to resume from its last {what}: {shlex.join(['steer', *again, 'run.resume=true'])}"


if __name__ == "__main__":
    sys.exit(main())
