"""The command `steer`; slow imports are left to the command that needs them."""

import argparse
import shlex
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from recipes.verification.errors import ClaimFailed

EPILOG = """\
CONFIG is a shipped name, such as ring/steer, or the path of a YAML file; its keys can be set, as in
  steer sample fashion/steer tilt.scale=5 reward=my_file.py:my_function
`steer list` shows what is shipped, `steer list samplers` what a key can be set to, and
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
    "configs",
)

OUT_OF_MEMORY = (  # messages of torch
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
)
SMALLER = "lower particles, prompts, max_batch, data.batch_size or the size of the model"

# What a stopped run resumes from, and its files.
RESUMED_FROM = {
    "train": ("checkpoint", "last.ckpt"),
    "tune": ("checkpoint", "last.ckpt"),
    "compare": ("cell", "cells/*.json"),
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
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument(
            "config", metavar="CONFIG", help="a shipped name or the path of a YAML file"
        )
        command.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the config"
        )
        command.add_argument(
            "--quiet",
            action="store_true",
            help="no progress; print the run folder and nothing else",
        )
    listing = commands.add_parser("list", help=LIST, description=f"{LIST[0].upper()}{LIST[1:]}.")
    listing.add_argument(
        "kind", metavar="KIND", nargs="?", help=f"one of {', '.join(KINDS)}; all, in short, without"
    )
    copy = commands.add_parser("copy", help="copy a shipped config, to edit it")
    copy.add_argument("name", metavar="NAME")
    copy.add_argument("dest", metavar="DEST", type=Path, help="a new file, or a folder")
    for command in commands.choices.values():
        command.add_argument(
            "--traceback", action="store_true", help="show where in the code an error arose"
        )
    return steer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 for success, 1 for a claim that fails, 2 for bad input, 3 for an unexpected exception (most
    often in the user's own file), 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser().parse_known_args(words)  # key=value may follow options
    if unknown := [word for word in rest if word.startswith("-") or arguments.command not in RUNS]:
        parser().error(f"unrecognized arguments: {' '.join(unknown)}")
    warnings.formatwarning = one_line
    try:
        run(arguments, rest, "steer " + shlex.join(words))
    except KeyboardInterrupt:
        print(f"steer: interrupted{how_to_resume(words)}", file=sys.stderr)
        return 130
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
        if no_memory(error):
            print(f"steer: error: not enough memory ({SMALLER})", file=sys.stderr)
            return 2
        print(f"steer: error: {unforeseen(error)}", file=sys.stderr)
        return 3
    return 0


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
    elif arguments.command == "copy":
        from recipes.copy import copy

        print(copy(arguments.name, arguments.dest))
    else:
        from recipes.setup.config import load
        from recipes.setup.job import Job

        config = load(arguments.command, arguments.config, [*arguments.overrides, *rest])
        recipe = getattr(import_module(f"recipes.{arguments.command}"), arguments.command)
        print(recipe(Job(config, command, arguments.quiet)))


def no_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, RuntimeError):
        return any(message in str(error) for message in OUT_OF_MEMORY)
    return isinstance(error, MemoryError)


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
