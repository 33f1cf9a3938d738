"""Several rewards on Fashion-MNIST at 10 to 1000 evaluations a sample: held-out rewards by method.

    python -m recipes.experiments.fashion_rewards              # 40 minutes on one core, resumable
    python -m recipes.experiments.fashion_rewards left two     # some of them
    python -m recipes.experiments.fashion_rewards seeds=4      # other settings of `steer compare`

Runs `steer compare` on fashion/compare and on its four variants: five classes, two seeds, 10 to 300
evaluations a sample and best of N at 1000. Draws their curves together: held-out reward, judge's
accuracy (of the class asked for) and diversity. Printed for each method that steers single
particles: the evaluations it needs to reach the held-out reward of the better best of N (single
jumps, or four) at 1000 evaluations, and the factor saved.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from recipes.cli import main as steer
from recipes.comparison.budget import RULES
from recipes.experiments.cells import FOLDER, Cells, digests
from recipes.experiments.findings import Finding
from recipes.reporting.tables import words as spaced
from recipes.setup.config import load
from recipes.verification.summary import markdown
from steer.data.stream import key

REWARDS = {
    "class": "compare",
    **{name: f"compare-{name}" for name in ("left", "symmetry", "two", "jpeg")},
}
SOME = ["condition.labels=[0,3,5,8,9]"]  # T-shirt, dress, sandal, bag, ankle boot
SIZES = ["seeds=2", "budgets=[10,30,100,300,1000]", *SOME]
AT_MOST = 300  # evaluations of all methods but best of N
WEIGHTS = ("fashion", "fashion-posterior", "fashion-patch", "fashion-residual")
TITLES = {
    "class": "class",
    "left": "brighter on the left",
    "symmetry": "symmetry",
    "two": "class and symmetry",
    "jpeg": "small JPEG (no gradient)",
}
PANELS = {
    "heldout_reward_mean": "held-out reward",
    "judge_accuracy": "judge's accuracy",
    "diversity": "diversity",
}
HELDOUT = "heldout_reward_mean"
REFERENCES = ("best_of_N_by_1_jump", "best_of_N_by_4_jumps")
AT = 1000
KEPT = ("method", "budget", "claim", "setting", "size", "spent", "error")
METHODS = (
    *(
        "posterior-guided_by_1",
        "posterior-guided_by_4",
        "denoiser-guided",
        "noise_optimisation",
        "FMRG_jacobian",
        "FMRG_endpoint",
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
    "FMRG_jacobian",
    "FMRG_endpoint",
    "Svdd",
)  # no particle knows of another

Row = dict[str, Any]


def settings_of(name: str, settings: Sequence[str]) -> list[str]:
    """The settings of a comparison beyond its config."""
    methods: Any = load("compare", f"fashion/{REWARDS[name]}", []).methods
    dear = [
        method for method, node in methods.items() if node is not None and method not in REFERENCES
    ]
    return [*SIZES, *(f"methods.{method}.most={AT_MOST}" for method in dear), *settings]


def cell_of(name: str, settings: Sequence[str] = ()) -> str:
    """The key of a comparison's rows.

    It changes with the config and with the rules for kept samples.
    """
    config: Any = OmegaConf.to_container(
        load("compare", f"fashion/{REWARDS[name]}", settings_of(name, settings))
    )
    config = {part: value for part, value in config.items() if part != "run"}
    return f"{name} {key(str(config), RULES):016x}"


def measure(name: str, settings: Sequence[str] = ()) -> list[Row]:
    """The rows of one comparison, resumed with the same weights."""
    made_with = f"{key(cell_of(name, settings), str(digests(WEIGHTS))):016x}"
    folder = Path("runs/figures/fashion_rewards") / name / made_with
    resume = ["run.resume=true"] if (folder / "config.yaml").exists() else []
    words = [*settings_of(name, settings), *resume]
    if steer(["compare", f"fashion/{REWARDS[name]}", f"run.dir={folder}", "--quiet", *words]) != 0:
        raise SystemExit(f"fashion/{REWARDS[name]} did not end; see above")
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    figures = [f for p in ("reward_mean", *PANELS) for f in (p, error_of(p))]
    return [{part: row[part] for part in (*KEPT, *figures) if part in row} for row in rows]


def error_of(name: str) -> str:
    """The name of a metric's standard error."""
    return f"{name.removesuffix('_mean')}_std_error"


def curve(rows: Iterable[Row], method: str) -> list[Row]:
    """The measurements of a method, the cheapest first, each size once."""
    done = {row["size"]: row for row in rows if row["method"] == method and "error" not in row}
    return sorted(done.values(), key=lambda row: row["spent"])


def needed(rows: list[Row], level: float, lift: float = 0.0) -> float:
    """The evaluations at which the held-out reward first reaches a level.

    Interpolated in their logarithm; infinite if it never does. The curve is first raised by so
    many standard errors.
    """
    points = [(row["spent"], row[HELDOUT] + lift * row[error_of(HELDOUT)]) for row in rows]
    for (low, below), (high, above) in pairwise([(points[0][0], -math.inf), *points]):
        if above >= level:
            share = (level - below) / (above - below) if below > -math.inf else 1.0
            return math.exp(math.log(low) + share * math.log(high / low))
    return math.inf


def saved(rows: list[Row]) -> list[list[str]]:
    """The cost to reach best of N, for each method that steers single particles.

    The evaluations to the held-out reward of the better best of N, and the factor saved, also with
    both curves moved by one standard error.
    """
    bests = [row for row in rows if row["method"] in REFERENCES and row["budget"] == AT]
    best = max(bests, key=lambda row: row[HELDOUT])
    level = best[HELDOUT]
    error = best[error_of(HELDOUT)]
    lines = []
    for method in ONE_BY_ONE:
        if not (found := curve(rows, method)):
            continue
        ns = [
            needed(found, level - k * error, k) for k in (0, 1, -1)
        ]  # as measured; at best; at worst
        factors = [
            f"{best['spent'] / n:.3g}" if n < math.inf else f"none within {found[-1]['spent']:.0f}"
            for n in ns
        ]
        first = "at least " if math.isclose(ns[0], found[0]["spent"]) else ""
        up_to = f"{ns[0]:.0f}" if ns[0] < math.inf else ""
        top = max(found, key=lambda row: row[HELDOUT])
        lines.append(
            [
                spaced(method),
                up_to,
                first + factors[0],
                f"{factors[2]} to {factors[1]}",
                reward_and_cost(top),
            ]
        )
    return [
        *lines,
        *(
            [
                f"{spaced(row['method'])}, N = {row['size']}",
                f"{row['spent']:.0f}",
                "",
                "",
                reward_and_cost(row),
            ]
            for row in bests
        ),
    ]


def reward_and_cost(row: Row) -> str:
    """A held-out reward and its cost, as text."""
    return f"{row[HELDOUT]:.3f} ± {row[error_of(HELDOUT)]:.3f} at {row['spent']:.0f}"


def draw(table: dict[str, list[Row]]) -> None:
    """Draws a column for each reward, a row for each metric, a line for each method."""
    figure = Figure(figsize=(3.1 * len(table) + 0.6, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(PANELS), len(table), squeeze=False, sharex=True)
    for i, (name, rows) in enumerate(table.items()):
        column = axes[:, i]
        for ax, (panel, title) in zip(column, PANELS.items(), strict=True):
            for k, method in enumerate(METHODS):
                if not (found := curve(rows, method)):
                    continue
                x = [row["spent"] for row in found]
                y = [row[panel] for row in found]
                error = [row[error_of(panel)] for row in found]
                style = {
                    "linestyle": "--",
                    "color": "#555555" if method == REFERENCES[0] else "#a8a8a8",
                }
                style = (
                    style if method.startswith("best_of_N") else {"color": f"C{k + k // 7}"}
                )  # C7 is grey, as best of N is
                ax.errorbar(
                    x,
                    y,
                    error,
                    marker="o",
                    markersize=3.5,
                    capsize=2,
                    linewidth=1.3,
                    label=spaced(method),
                    **style,
                )
            ax.set_xscale("log")
            ax.grid(alpha=0.3)
            ax.tick_params(labelsize=8)
            ax.spines[["top", "right"]].set_visible(False)
            if i == 0:
                ax.set_ylabel(title, fontsize=10)
        column[0].set_title(TITLES[name], fontsize=11)
        column[-1].set_xlabel("evaluations per sample", fontsize=9)
    handles: dict[str, Any] = {}
    for ax in axes[0]:
        handles |= {
            label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(2, len(table)),
        fontsize=9,
        frameon=False,
    )
    figure.savefig(FOLDER / "fashion_rewards.png", dpi=130)


def rows_from(cells: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The latest rows by reward."""
    return {
        name: rows for name in REWARDS for key, rows in cells.items() if key.startswith(f"{name} ")
    }


def results(cells: Mapping[str, Any]) -> str:
    """For each reward, the evaluations at which single particles reach best of N."""
    head = [
        "",
        "evaluations up to the level",
        "factor",
        "within one standard error",
        "held-out reward at its best",
    ]
    return "\n\n".join(
        f"**{TITLES[name]}**\n\n{markdown([head, *saved(rows)])}"
        for name, rows in rows_from(cells).items()
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """One posterior draw a step against best of N, reward by reward."""
    rows = rows_from(cells)
    found = {}
    for name in ("left", "symmetry", "class", "two"):
        bests = [row for row in rows[name] if row["method"] in REFERENCES and row["budget"] == AT]
        best = max(bests, key=lambda row: row[HELDOUT])
        found[name] = best["spent"] / needed(curve(rows[name], ONE_BY_ONE[0]), best[HELDOUT])
    found_by_reward = ", ".join(
        f"{TITLES[n]} {f'{f:.0f} times' if f else 'not reached'}" for n, f in found.items()
    )
    claim = "Guided by posterior draws, single particles reach best of N at 1000"
    return [
        Finding(
            claim, "a hundred times fewer evaluations", found_by_reward, min(found.values()) >= 100
        )
    ]


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if "=" not in a]
    settings = [a for a in arguments if "=" in a]
    if unknown := set(names) - set(REWARDS):
        raise SystemExit(
            f"no comparison is called {', '.join(sorted(unknown))}; there are {', '.join(REWARDS)}"
        )
    kept = Cells("fashion_rewards", WEIGHTS)
    for name in names or REWARDS:
        kept.get(cell_of(name, settings), partial(measure, name, settings))
    if not names:
        kept.prune()
    print(results(kept.cells))
    draw(rows_from(kept.cells))


if __name__ == "__main__":
    main(sys.argv[1:])
