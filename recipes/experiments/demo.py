"""The demonstration of `make demo`: the README's commands for steering and for tuning.

python -m recipes.experiments.demo      # a minute or two on one core
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from recipes.cli import main as steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from steer.counting import Evaluations

WEIGHTS = ("fashion", "fashion-patch", "fashion-residual")
COMMANDS = {"sample fashion/steer": "fashion_steer.png", "tune fashion/tune": ""}
KEPT = ("judge_accuracy", "judge_accuracy_std_error", "diversity")


def measure(words: str) -> dict[str, Any]:
    """Metrics before and after, evaluations and seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        if steer([*words.split(), f"run.dir={folder}", "--quiet"]) != 0:
            raise SystemExit(f"steer {words} did not end; see above")
        metrics = json.loads((folder / "metrics.json").read_text())
        if picture := COMMANDS[words]:
            shutil.copy(folder / "grid.png", FOLDER / picture)
    names = [*KEPT, *(f"base_{name}" for name in KEPT)]
    spent = Evaluations(**metrics["evaluations"]).forward_equivalents()
    return {
        **{name: metrics[name] for name in names},
        "forward_equivalents": spent,
        "seconds": metrics["seconds"],
    }


def results(cells: Mapping[str, Any]) -> str:
    """A row for each command."""
    rows = []
    for words in COMMANDS:
        cell = cells[words]
        before, after = (
            within(cell[f"{when}judge_accuracy"], cell[f"{when}judge_accuracy_std_error"])
            for when in ("base_", "")
        )
        diversity = f"{short(cell['base_diversity'])} to {short(cell['diversity'])}"
        seconds = f"{cell['seconds']:.0f}"
        rows.append(
            [
                f"`steer {words}`",
                before,
                after,
                diversity,
                f"{cell['forward_equivalents']:.0f}",
                seconds,
            ]
        )
    heads = [
        "",
        "judge's accuracy before",
        "after",
        "diversity",
        "forward-equivalents (a sample; in all)",
        "seconds",
    ]
    return table(heads, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """None."""
    return []


def main() -> None:
    kept = Cells("demo", WEIGHTS)
    for words in COMMANDS:
        kept.get(words, partial(measure, words))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
