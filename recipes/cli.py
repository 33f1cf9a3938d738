"""The command `steer`. What is slow to import is imported by the command that needs it."""

import argparse
import shlex
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from recipes.verification.errors import ClaimFailed

EPILOG = """\
CONFIG is a shipped name, such as ring/steer, or the path of a YAML file; any key of it can be set, as in
  steer sample fashion/steer tilt.scale=5 reward=my_file.py:my_function
`steer list` shows what is shipped, `steer list samplers` what a key can be set to, and
`steer copy fashion/steer mine.yaml` gives a config of one's own to edit."""

RUNS = {
    "sample": "draw samples that a reward steers, beside unsteered ones",
    "train": "learn a flow map, or a classifier, from data",
    "tune": "tune a flow map to a reward",
    "compare": "hold several methods against each other at equal evaluations",
    "evaluate": "hold the samples of a flow map against data",
    "verify": "hold a sampling method against known laws; exit code 1 if it claims to be exact and does not pass",
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

SMALLER = "lower particles, prompts, max_batch, data.batch_size or the size of the model"

# What a run that is stopped goes on from, and which of its files that is.
KEPT = {
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
    """Runs one command; returns its exit code: 0, 1 for a claim that fails, 2 for bad input, 3 for
    an exception that nobody foresaw (most often in a file of one's own), 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser().parse_known_args(
        words
    )  # key=value may come before and after options
    if strange := [word for word in rest if word.startswith("-") or arguments.command not in RUNS]:
        parser().error(f"unrecognized arguments: {' '.join(strange)}")
    warnings.formatwarning = lambda message, *_, **__: (
        f"steer: warning: {' '.join(str(message).split())}\n"
    )
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


def run(arguments: argparse.Namespace, rest: list[str], command: str) -> None:
    """The command itself."""
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
    """Whether more memory was asked for than there is."""
    said = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "Storage size calculation overflowed",
    )
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(one in str(error) for one in said)
    )


def unforeseen(error: Exception) -> str:
    """Kind, message, and the last place in code that is not an installed package's: one's own file,
    or ours.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not installed(frame.filename)] or frames
    message = " ".join(str(error).split()) or "no message"
    return (
        f"{type(error).__name__} at {ours[-1].filename}:{ours[-1].lineno}, in {ours[-1].name}: {message};"
        " --traceback shows the way there"
    )


def installed(file: str) -> bool:
    """Whether a source file came with Python or with a package."""
    packages = {"site-packages", "dist-packages"} & {*Path(file).parts}
    return (
        file.startswith("<")
        or bool(packages)
        or Path(file).is_relative_to(sysconfig.get_path("stdlib"))
    )


def how_to_resume(words: Sequence[str]) -> str:
    """What to type after Ctrl-C, if the run folder of this process holds something to go on from."""
    what, files = KEPT.get(words[0], ("", ""))
    ours = sys.modules.get(
        "recipes.setup.run_directory"
    )  # imported by the recipe, if it came as far
    if not what or ours is None or not ours.opened or not any(ours.opened[-1].glob(files)):
        return "; nothing of it was kept"
    again = [word for word in words if not word.startswith("run.resume=")]
    return f"; to go on from its last {what}: {shlex.join(['steer', *again, 'run.resume=true'])}"


if __name__ == "__main__":
    sys.exit(main())
