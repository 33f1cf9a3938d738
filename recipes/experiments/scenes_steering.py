"""Steering the map of captioned scenes by a CLIP: nine methods at equal cost, and who is fooled.

    python -m recipes.experiments.scenes_steering      # hours on one core; it goes on where it was

It runs `steer compare scenes/compare`: 50 captions that name a held-out combination, three seeds,
10 to 1000 evaluations a sample. The reward is one CLIP's score; the reader of scenes says how many
samples show what their caption says, and another CLIP gives its own score.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.cli import main as steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from recipes.experiments.scenes_tuning import WEIGHTS

RUN = Path("runs/figures/scenes-compare")
READER = "heldout_reward_mean"
FIGURES = {
    READER: "Overall accuracy by the reader",
    "reward_mean": "Score of the CLIP that is steered by",
    "heldout_reward_2_mean": "Score of the other CLIP",
    "diversity": "Diversity in the other CLIP's features",
}
BEST_OF_N = ("best_of_N_by_1_jump", "best_of_N_by_4_jumps")
AIMED_AT = (30.0, 100.0)
ERRORS = 2.0


def compared() -> list[dict[str, Any]]:
    """The rows of the comparison, a method at a budget each."""
    resume = ["run.resume=true"] if RUN.is_dir() else []
    if steer(["compare", "scenes/compare", f"run.dir={RUN}", *resume, "--quiet"]) != 0:
        raise SystemExit("steer compare scenes/compare did not end; see above")
    shutil.copy(RUN / "curves.png", FOLDER / "scenes_steering.png")
    return json.loads((RUN / "metrics.json").read_text())["rows"]


def error_of(name: str) -> str:
    """The key of a figure's standard error."""
    return f"{name.removesuffix('_mean')}_std_error"


def results(cells: Mapping[str, Any]) -> str:
    """A table for each figure: a row for each method, a column for each budget."""
    rows = [row for row in cells["rows"] if "error" not in row]
    budgets = sorted({row["budget"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    parts = []
    for name, title in FIGURES.items():
        found = {
            (row["method"], row["budget"]): within(row[name], row[error_of(name)]) for row in rows
        }
        body = [
            [method.replace("_", " "), *(found.get((method, b), "") for b in budgets)]
            for method in methods
        ]
        parts.append(f"{title}:\n\n{table(['', *(f'{b:g}' for b in budgets)], body)}")
    return "\n\n".join(parts)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The most accurate method against best of N, at two budgets."""
    found = []
    for budget in AIMED_AT:
        rows = {
            row["method"]: row
            for row in cells["rows"]
            if row["budget"] == budget and "error" not in row
        }
        plain = max((rows[name] for name in BEST_OF_N if name in rows), key=accuracy)
        others = [row for name, row in rows.items() if name not in BEST_OF_N]
        top = max(others, key=accuracy)
        apart = accuracy(top) - accuracy(plain)
        error = (top[error_of(READER)] ** 2 + plain[error_of(READER)] ** 2) ** 0.5
        found.append(
            Finding(
                f"Steered by a CLIP at {budget:g} evaluations, the reader prefers some method to"
                " best of N",
                f"by {ERRORS:g} standard errors",
                f"{top['method'].replace('_', ' ')} {short(accuracy(top), 3)} against"
                f" {short(accuracy(plain), 3)}, {apart / error:.1f} errors",
                apart >= ERRORS * error,
            )
        )
    return found


def accuracy(row: Mapping[str, Any]) -> float:
    """The reader's overall accuracy."""
    return row[READER]


def main() -> None:
    kept = Cells("scenes_steering", WEIGHTS)
    kept.get("rows", compared)
    print(results(kept.cells))


if __name__ == "__main__":
    main()
