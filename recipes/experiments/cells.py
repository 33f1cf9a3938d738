"""Tables of measurements, filled cell by cell, resumable, with the provenance of each cell.

docs/figures/NAME.json holds {"provenance": [record, ...], "cells": {key: value}}. A record is the
command, the date, the commit, the SHA-256 of each shipped file of weights that was used, and the
keys of the cells measured so. A cell is valid only while the shipped weights are those of its
record: otherwise it is measured again, and the script says so.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path("docs/figures")
SHIPPED = (Path("steer/weights"), Path("rewards/weights"))
CODE = ("steer", "rewards", "recipes")
DIGITS = 12  # of a hash that are kept

Record = dict[str, Any]


class Cells:
    """Results by key in a JSON file, written after every cell.

    Args:
        name: the file's stem, under docs/figures.
        weights: names of the shipped weights that the cells depend on, such as "fashion".

    Raises:
        ValueError: a name that no shipped file has.
    """

    def __init__(self, name: str, weights: Sequence[str] = ()):
        self.name = name
        self.weights = tuple(weights)
        self.path = FOLDER / f"{name}.json"
        kept = (
            json.loads(self.path.read_text())
            if self.path.exists()
            else {"provenance": [], "cells": {}}
        )
        self.provenance: list[Record] = kept["provenance"]
        self.cells: dict[str, Any] = kept["cells"]
        self.asked: set[str] = set()
        for each in self.weights:
            file_of(each)

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The cell of that key, measured if it is missing or was measured with other weights."""
        self.asked.add(key)
        changes = self.changes(key)
        if key in self.cells and not changes:
            return self.cells[key]
        if key in self.cells:
            print(f"{key}: measured again, {said(changes)}", flush=True)
        before = digests(self.weights)
        value = measure()
        if digests(self.weights) != before:
            raise SystemExit(
                f"{key} is not kept: shipped weights changed while it was measured; run it again"
            )
        self.put(
            key,
            value,
            {"command": command(), "date": today(), "commit": commit(), "weights": before},
        )
        print(key, value, flush=True)
        return value

    def put(self, key: str, value: Any, record: Record) -> None:
        """Writes a cell with its provenance."""
        self.forget([key])
        self.cells[key] = value
        same = [
            each for each in self.provenance if {**each, "cells": None} == {**record, "cells": None}
        ]
        if not same:
            self.provenance.append({**record, "cells": []})
        (same or self.provenance)[-1]["cells"].append(key)
        self.write()

    def forget(self, keys: Iterable[str]) -> None:
        """Drops cells and their provenance."""
        for key in keys:
            self.cells.pop(key, None)
            for record in self.provenance:
                record["cells"] = [other for other in record["cells"] if other != key]
        self.provenance = [record for record in self.provenance if record["cells"]]

    def prune(self) -> None:
        """Drops the cells that this run has not asked for, those of removed settings."""
        if unasked := self.cells.keys() - self.asked:
            self.forget(unasked)
            self.write()

    def write(self) -> None:
        """Writes the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(
            json.dumps({"provenance": self.provenance, "cells": self.cells}, indent=1) + "\n"
        )
        os.replace(scratch, self.path)

    def changes(self, key: str, now: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
        """The weights that have changed since the cell was measured: name -> (then, now)."""
        now = digests(self.weights) if now is None else now
        record = next((each for each in self.provenance if key in each["cells"]), None)
        then = {} if record is None else record["weights"]
        return {
            name: (then.get(name, "unknown"), now[name])
            for name in now
            if then.get(name) != now[name]
        }

    def stale(self) -> dict[str, tuple[str, str]]:
        """The weights that have changed since any cell was measured."""
        now = digests(self.weights)
        return {
            name: change for key in self.cells for name, change in self.changes(key, now).items()
        }


# --- how a cell was made ------------------------------------------------------------------------
def digests(names: Sequence[str]) -> dict[str, str]:
    """The first DIGITS hex digits of the SHA-256 of shipped weights, by name."""
    return {name: hashlib.sha256(file_of(name).read_bytes()).hexdigest()[:DIGITS] for name in names}


def file_of(name: str) -> Path:
    """The shipped file of weights of that name."""
    found = [path for folder in SHIPPED if (path := folder / f"{name}.safetensors").exists()]
    if not found:
        raise ValueError(
            f"no weights are shipped as {name!r}; run from the repository, and name a file of"
            f" {SHIPPED}"
        )
    return found[0]


def shipped() -> list[str]:
    """The names of all shipped weights."""
    return sorted(path.stem for folder in SHIPPED for path in folder.glob("*.safetensors"))


def said(changes: Mapping[str, tuple[str, str]]) -> str:
    """The changes as text."""
    return "; ".join(
        f"it has {name} {then}, shipped is {now}" for name, (then, now) in changes.items()
    )


def command() -> str:
    """The command of this process."""
    spec = sys.modules["__main__"].__spec__
    program = sys.argv[0] if spec is None else f"-m {spec.name}"
    return " ".join(["python", program, *sys.argv[1:]])


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()


def commit() -> str:
    """The commit of the code, with a plus where files have changed since; "unknown" without git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
