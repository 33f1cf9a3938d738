"""Every method that claims to be exact in every world of steer.analytic.benchmarks: docs/verify.md.

    python -m recipes.experiments.verify                 # hours on one core, resumable
    python -m recipes.experiments.verify rounds=4        # missing cells, by at most so many rounds
    python -m recipes.experiments.verify Ode "FK, max"   # these methods alone

Every cell has its own noise, so that of M cells M P(|z| > 3) are expected beyond three standard
errors.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from recipes.evaluation.metrics import Figures
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding
from recipes.reporting.html import plus_minus
from recipes.verification.hypothesis_test import (
    LIMITS,
    WITHIN,
    assess,
    figures,
    is_decided,
    unless_unsettled,
)
from recipes.verification.measurement import SampleSize, measure_until
from recipes.verification.summary import HOW_TO_READ, markdown
from steer.analytic.benchmarks import WORLDS
from steer.data.stream import key
from steer.lookahead import Denoiser, Identity, MapJump, Posterior
from steer.samplers import (
    FkSteering,
    Jump,
    Ode,
    ReversalWeights,
    Sampler,
    Sde,
    Tempering,
    TrajectoryTilting,
    UnguidedTilting,
    ValueSmc,
    das,
    tds,
)
from steer.solvers import Heun

PAGE = Path("docs/verify.md")
PROMPTS = 32
PARTICLES = 512
ROUNDS = 20
STEPS = (10, 40, 160)
AIM = 0.02
# particles where a look-ahead costs sixteen RK4 steps
FEWER = {"tilting, map": 256, "tilting, map, extra drift": 256}
FEW = {"Jump": (1, 2, 4), "Jump, renoised": (2, 4, 8)}  # exact at every number of jumps


def chi(t: float) -> float:
    """Extra drift."""
    return 0.5 * (1 - t)


SETTINGS: dict[str, Callable[[int], Sampler]] = {
    "Ode": Ode,
    "Ode, Heun": partial(Ode, solver=Heun()),
    "Sde": Sde,
    "Jump": Jump,
    "Jump, renoised": partial(Jump, renoise=True),
    "tilting, identity": partial(TrajectoryTilting, lookahead=Identity()),
    "tilting, denoiser": partial(TrajectoryTilting, lookahead=Denoiser()),
    "FK, difference": lambda n: FkSteering(n, potential="difference", every=n // 5),
    "FK, max": lambda n: FkSteering(n, potential="max", every=n // 3 + 1),
    "FK, sum": lambda n: FkSteering(n, potential="sum", every=n // 3 + 1),
    "tilting, unguided": partial(UnguidedTilting, lookahead=Denoiser()),
    "tilting, denoiser, extra drift": partial(TrajectoryTilting, lookahead=Denoiser(), chi=chi),
    "tilting, identity, extra drift": partial(TrajectoryTilting, lookahead=Identity(), chi=chi),
    "tilting, posterior of 4": partial(TrajectoryTilting, lookahead=Posterior(4)),
    "tilting, tempering": partial(TrajectoryTilting, lookahead=Denoiser(), annealing=Tempering()),
    "tilting, reversal weights": partial(
        TrajectoryTilting, lookahead=Identity(), weighting=ReversalWeights(), chi=0.5
    ),
    "TDS": tds,
    "DAS": das,
    "value SMC, posterior of 16": ValueSmc,
    "tilting, map": partial(TrajectoryTilting, lookahead=MapJump()),
    "tilting, map, extra drift": partial(TrajectoryTilting, lookahead=MapJump(), chi=chi),
}

# the same potentials at five times, as the difference has them
STRAINED: dict[str, Callable[[int], Sampler]] = {
    "FK, max, five times": lambda n: FkSteering(n, potential="max", every=n // 5),
    "FK, sum, five times": lambda n: FkSteering(n, potential="sum", every=n // 5),
}


def measure(setting: str, name: str, rounds: int = ROUNDS) -> Figures:
    """One setting in one world."""
    start = time.process_time()
    world = WORLDS[name]()
    build = (SETTINGS | STRAINED)[setting]
    size = SampleSize(PROMPTS, FEWER.get(setting, PARTICLES), key(setting))
    samplers: dict[int | None, Sampler] = {n: build(n) for n in FEW.get(setting, STEPS)}
    runs = measure_until(partial(is_decided, world=world), samplers, world, name, size, rounds)
    found = figures(runs, assess(runs, world, build(STEPS[0]).claim), world)
    return {**found, "cpu_seconds": round(time.process_time() - start, 1)}


def page(
    table: Mapping[str, Mapping[str, Figures]], strained: Mapping[str, Mapping[str, Figures]]
) -> str:
    """The page: matrices and their summary.

    Last, and not counted, settings with too few particles.
    """
    found = [cell for row in table.values() for cell in row.values()]
    at_zero = matrix(table, lambda c: f"{c['log_z_error']:+.4f} ± {c['log_z_std_error']:.4f}")
    at_most = matrix(
        table,
        lambda c: plus_minus(c["sizes"][-1]["log_z_error"], c["sizes"][-1]["log_z_std_error"]),
    )
    orders = matrix(
        table,
        lambda c: "noise" if c["order"] is None else plus_minus(c["order"], c["order_std_error"]),
    )
    steps = ", ".join(map(str, STEPS))
    return f"""\
# Every exact method in every world

Written by `python -m recipes.experiments.verify`; one method, or one of your own, by
`steer verify worlds/verify sampler._target_=mine.py:Mine`. The worlds are those of
`steer/analytic/benchmarks.py`. Up to {ROUNDS} rounds of {PROMPTS} repetitions of {PARTICLES}
particles (256 for the map's look-ahead), {steps} steps; 1, 2 and 4 jumps, or 2, 4 and 8 with fresh
noise between them. FK steering has potentials at five times, or at three for the maximum and the
sum; see the end.

{HOW_TO_READ}

{summary(found)}

## Results: the largest of log Z, mean and mode weights at step 0, in standard errors

{matrix(table, z_score_cell)}

![each log Z at step 0, in standard errors](figures/verify.png)

## Error of log Z at step 0

{at_zero}

## The smallest detectable error of log Z

{matrix(table, smallest)}

## Error of log Z at the most steps

{at_most}

## Order of convergence of log Z

{orders}

## Not counted above: settings with too few particles

Results as above. Maximum and sum select by the same reward again at every potential and undo it at
the end, by weights whose tails grow with the number of potentials.

{matrix(strained, z_score_cell)}
"""


def z_score_cell(cell: Figures) -> str:
    """The worst of the three z-scores, and the result if it is no pass."""
    return (
        f"{worst_of(cell):.1f}"
        if cell["verdict"] == "pass"
        else f"**{worst_of(cell):.1f} {cell['verdict']}**"
    )


def smallest(cell: Figures) -> str:
    """The smallest detectable error of log Z."""
    return f"{cell['smallest_error_told']['log_z']:.3f}"


def worst_of(cell: Figures) -> float:
    """The largest of the three z-scores."""
    return max(cell[f"{name}_in_std_errors"] for name in ("log_z", "mean", "mode_weights"))


def summary(found: list[Figures]) -> str:
    """The numbers of large z-scores, beside those expected by chance."""
    checks = [
        cell[f"{name}_in_std_errors"]
        for cell in found
        for name in ("log_z", "mean", "mode_weights")
    ]
    log_z = [cell["log_z_in_std_errors"] for cell in found]
    results = ", ".join(f"{n} {result}" for result, n in counts_of(found).items())
    lines = [f"{len(found)} cells; {results}."]
    for what, values in (("log Z alone", log_z), ("all three checks", checks)):
        counts = ", ".join(
            f"{sum(v > z for v in values)} beyond {z} ({len(values) * 2 * stats.norm.sf(z):.1f}"
            " expected)"
            for z in (2, 3)
        )
        median = stats.norm.isf((1 - 0.5 ** (1 / len(values))) / 2)
        lines.append(
            f"- {what}, {len(values)} numbers: {counts}; the largest {max(values):.2f} (median by"
            f" chance {median:.2f})."
        )
    last = [cell["sizes"][-1] for cell in found]
    beyond = [one for one in last if abs(one["log_z_error"]) > AIM]
    sure = sum(abs(one["log_z_error"]) - 2 * one["log_z_std_error"] > AIM for one in beyond)
    lines.append(
        f"- log Z at the most steps is off by more than {AIM} in {len(beyond)} cells, by two"
        f" standard errors more in {sure}."
    )
    return "\n".join([lines[0], "", *lines[1:]])


def counts_of(found: list[Figures]) -> dict[str, int]:
    """The number of cells with each result."""
    counted = Counter(cell["verdict"] for cell in found)
    return {v: counted[v] for v in ("pass", "fail", "inconclusive", "unsettled") if counted[v]}


def matrix(table: Mapping[str, Mapping[str, Figures]], shown: Callable[[Figures], str]) -> str:
    """A table of settings by worlds."""
    rows = [
        [name, *(shown(row[w]) if w in row else "" for w in WORLDS)] for name, row in table.items()
    ]
    return markdown([["", *WORLDS], *rows])


def draw(table: Mapping[str, Mapping[str, Figures]]) -> None:
    """Draws log Z at step zero in standard errors: a row for each setting, a dot for each world."""
    figure = Figure(figsize=(8, 0.34 * len(SETTINGS) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for i, name in enumerate(WORLDS):
        cells = [
            (row, list(SETTINGS).index(setting)) for setting, row in table.items() if name in row
        ]
        z = [
            row[name]["log_z_in_std_errors"] * (1 if row[name]["log_z_error"] > 0 else -1)
            for row, _ in cells
        ]
        ax.plot(
            z, [at + 0.06 * (i - 3.5) for _, at in cells], "o", markersize=4, label=name, alpha=0.85
        )
    ax.axvspan(-WITHIN, WITHIN, color="#888888", alpha=0.12, linewidth=0)
    ax.axvline(0, color="#888888", linewidth=0.8)
    ax.set_yticks(range(len(SETTINGS)), list(SETTINGS))
    ax.invert_yaxis()
    ax.set_xlim(
        -max(4, ax.dataLim.x1 + 0.5, 0.5 - ax.dataLim.x0),
        max(4, ax.dataLim.x1 + 0.5, 0.5 - ax.dataLim.x0),
    )
    ax.set_xlabel("error of log Z at step 0, in standard errors")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False
    )
    figure.savefig(FOLDER / "verify.png", dpi=150)


def key_of(setting: str, name: str) -> str:
    """The key of a cell, which includes the numbers of steps."""
    return f"{setting}, {name}, steps {' '.join(map(str, FEW.get(setting, STEPS)))}"


def rows_from(cells: Mapping[str, Any]) -> dict[str, dict[str, Figures]]:
    """The measured cells by setting and world."""
    return {
        setting: {
            name: {**cell, "verdict": unless_unsettled(cell["verdict"], cell["sizes"])}
            for name in WORLDS
            if (cell := cells.get(key_of(setting, name))) is not None
        }
        for setting in SETTINGS | STRAINED
    }


def page_of(cells: Mapping[str, Any]) -> str:
    """docs/verify.md of the cells measured so far. Raises KeyError before there is any."""
    rows = {setting: row for setting, row in rows_from(cells).items() if row}
    if not rows:
        raise KeyError(key_of(next(iter(SETTINGS)), next(iter(WORLDS))))
    counted, strained = (
        {s: row for s, row in rows.items() if s in some} for some in (SETTINGS, STRAINED)
    )
    return page(counted, strained)


def results(cells: Mapping[str, Any]) -> str:
    """The summary. Raises KeyError for a missing cell."""
    return summary([cells_of(cells, setting, name) for setting in SETTINGS for name in WORLDS])


def cells_of(cells: Mapping[str, Any], setting: str, name: str) -> Figures:
    """One cell, with its final result."""
    cell = cells[key_of(setting, name)]
    return {**cell, "verdict": unless_unsettled(cell["verdict"], cell["sizes"])}


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """All exact methods in all worlds."""
    found = [cells_of(cells, setting, name) for setting in SETTINGS for name in WORLDS]
    counted = counts_of(found)
    claim = f"Every exact method in every world, at step zero, to {LIMITS['log_z']:g} in log Z"
    said = ", ".join(f"{n} {verdict}" for verdict, n in counted.items())
    return [Finding(claim, "all pass", said, counted.get("pass", 0) == len(found))]


def main(arguments: list[str]) -> None:
    rounds = next(
        (int(a.removeprefix("rounds=")) for a in arguments if a.startswith("rounds=")), ROUNDS
    )
    chosen = [a for a in arguments if not a.startswith("rounds=")] or list(SETTINGS | STRAINED)
    if unknown := set(chosen) - set(SETTINGS | STRAINED):
        raise SystemExit(
            f"no method is called {', '.join(sorted(unknown))}; there are"
            f" {', '.join(SETTINGS | STRAINED)}"
        )
    kept = Cells("verify")
    for setting in chosen:
        for name in WORLDS:
            kept.get(key_of(setting, name), partial(measure, setting, name, rounds))
        PAGE.write_text(page_of(kept.cells))  # as far as it is known
        draw({s: row for s, row in rows_from(kept.cells).items() if s in SETTINGS and row})
    if len(chosen) == len(SETTINGS | STRAINED):
        kept.prune()


if __name__ == "__main__":
    main(sys.argv[1:])
