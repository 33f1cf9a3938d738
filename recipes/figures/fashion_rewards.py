"""Several rewards on Fashion-MNIST, 10 to 3000 evaluations a sample: how far each method gets on what nobody steered by.

    python -m recipes.figures.fashion_rewards              # an hour on one core; stopped, it goes on where it was
    python -m recipes.figures.fashion_rewards left two     # some of them

Runs `steer compare` on fashion/compare and its four variants and puts their curves together: held-out reward, judge's accuracy
(of the class that was asked for) and diversity. Printed for each method that steers single particles: the evaluations it needs
to reach the held-out reward that best of N has at 1000 evaluations, and the factor saved.
"""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.cli import main as steer
from recipes.figures.cells import FOLDER, Cells
from recipes.tables import words
from recipes.verdicts import markdown

REWARDS = {"class": "compare", **{name: f"compare-{name}" for name in ("left", "symmetry", "two", "jpeg")}}
TITLES = {
    "class": "class",
    "left": "brighter on the left",
    "symmetry": "symmetry",
    "two": "class and symmetry",
    "jpeg": "small JPEG (no gradient)",
}
PANELS = {"heldout_reward_mean": "held-out reward", "judge_accuracy": "judge's accuracy", "diversity": "diversity"}
REFERENCE, AT = "best_of_N_by_1_jump", 1000
KEPT = ("method", "budget", "claim", "setting", "size", "spent", "error")
METHODS = (
    *(
        "posterior-guided_by_1",
        "posterior-guided_by_4",
        "denoiser-guided",
        "noise_optimisation",
        "FMTT_of_8",
        "FK_steering_of_8",
        "Svdd",
        "beam_search",
    ),
    *("best_of_N_by_1_jump", "best_of_N_by_4_jumps"),
)
ONE_BY_ONE = (
    "posterior-guided_by_1",
    "posterior-guided_by_4",
    "denoiser-guided",
    "noise_optimisation",
    "Svdd",
)  # no particle knows of another

Row = dict[str, Any]


def measure(name: str) -> list[Row]:
    """The rows of one comparison, taken up where it was stopped."""
    folder = Path("runs/figures/fashion_rewards") / name
    resume = ["run.resume=true"] if (folder / "config.yaml").exists() else []
    if steer(["compare", f"fashion/{REWARDS[name]}", f"run.dir={folder}", "--quiet", *resume]) != 0:
        raise SystemExit(f"fashion/{REWARDS[name]} did not end; see above")
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    figures = [f for p in ("reward_mean", *PANELS) for f in (p, f"{p.removesuffix('_mean')}_std_error")]
    return [{key: row[key] for key in (*KEPT, *figures) if key in row} for row in rows]


def curve(rows: Iterable[Row], method: str) -> list[Row]:
    """What was measured of a method, the cheapest first; each size once."""
    done = {row["size"]: row for row in rows if row["method"] == method and "error" not in row}
    return sorted(done.values(), key=lambda row: row["spent"])


def needed(rows: list[Row], level: float, name: str = "heldout_reward_mean") -> float:
    """The evaluations at which a curve first comes up to a level, straight in their logarithm; infinite if it never does."""
    for i, row in enumerate(rows):
        if row[name] >= level:
            if i == 0:
                return row["spent"]
            low = rows[i - 1]
            share = (level - low[name]) / (row[name] - low[name])
            return math.exp(math.log(low["spent"]) + share * math.log(row["spent"] / low["spent"]))
    return math.inf


def saved(rows: list[Row]) -> list[list[str]]:
    """For each method that steers single particles: evaluations up to the reference's held-out reward, and the factor."""
    reference = next(row for row in rows if row["method"] == REFERENCE and row["budget"] == AT)
    lines = []
    for method in ONE_BY_ONE:
        found = curve(rows, method)
        if not found:
            continue
        n, best = (
            needed(found, reference["heldout_reward_mean"]),
            max(found, key=lambda row: row["heldout_reward_mean"]),
        )
        factor = f"{reference['spent'] / n:.3g}" if n < math.inf else "not reached"
        top = f"{best['heldout_reward_mean']:.3f} ± {best['heldout_reward_std_error']:.3f} at {best['spent']:.0f}"
        lines.append([words(method), f"{n:.0f}" if n < math.inf else "", factor, top])
    level = f"{reference['heldout_reward_mean']:.3f} ± {reference['heldout_reward_std_error']:.3f} at {reference['spent']:.0f}"
    return [*lines, [f"best of {reference['size']} single jumps", f"{reference['spent']:.0f}", "1", level]]


def draw(table: dict[str, list[Row]]) -> None:
    """A column for each reward, a row for each figure, a line for each method."""
    figure = Figure(figsize=(3.1 * len(table) + 0.6, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(PANELS), len(table), squeeze=False, sharex=True)
    for column, (name, rows) in zip(axes.T, table.items(), strict=True):
        for ax, (panel, title) in zip(column, PANELS.items(), strict=True):
            for k, method in enumerate(METHODS):
                if not (found := curve(rows, method)):
                    continue
                x, y = [row["spent"] for row in found], [row[panel] for row in found]
                error = [row[f"{panel.removesuffix('_mean')}_std_error"] for row in found]
                style = {"linestyle": "--", "color": "#555555" if method == REFERENCE else "#a8a8a8"}
                style = style if method.startswith("best_of_N") else {"color": f"C{k}"}
                ax.errorbar(
                    x, y, error, marker="o", markersize=3.5, capsize=2, linewidth=1.3, label=words(method), **style
                )
            ax.set_xscale("log")
            ax.grid(alpha=0.3)
            ax.tick_params(labelsize=8)
            ax.spines[["top", "right"]].set_visible(False)
            if column is axes.T[0]:
                ax.set_ylabel(title, fontsize=10)
        column[0].set_title(TITLES[name], fontsize=11)
        column[-1].set_xlabel("evaluations per sample", fontsize=9)
    handles: dict[str, Any] = {}
    for ax in axes[0]:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.savefig(FOLDER / "fashion_rewards.png", dpi=130)


def main(names: list[str]) -> None:
    if unknown := set(names) - set(REWARDS):
        raise SystemExit(f"no comparison is called {', '.join(sorted(unknown))}; there are {', '.join(REWARDS)}")
    cells = Cells("fashion_rewards")
    for name in names or REWARDS:
        cells.get(name, lambda name=name: measure(name))  # type: ignore[misc]
    table = {name: cells.cells[name] for name in REWARDS if name in cells.cells}
    for name, rows in table.items():
        head = ["", "evaluations up to its held-out reward", "factor", "held-out reward at best"]
        print(f"\n{TITLES[name]}\n\n{markdown([head, *saved(rows)])}")
    draw(table)


if __name__ == "__main__":
    main(sys.argv[1:])
