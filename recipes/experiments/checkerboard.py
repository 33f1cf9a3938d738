"""Every objective on the checkerboard: KL at 1 to 16 jumps, at equal steps and at equal cost.

    python -m recipes.experiments.checkerboard      # 90 minutes on one core, resumable

One network, one optimiser, one data distribution and two seeds; only the objective differs, by its
name in `steer.training.named`. At equal steps each takes STEPS of them; at equal cost each is given
the cost of STEPS steps of Lagrangian self-distillation, by the time of short trainings, each in
turn with one of flow matching. Methods that distil get the flow-matching map of the same seed as
their teacher, whose own training is not counted. KL(data || samples) on 32 x 32 cells that fit the
board's squares, from 50 000 samples; samples of the data distribution itself have .005.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table
from recipes.experiments.step_time import plane_map
from recipes.experiments.training import train as fit
from steer.data import Checkerboard
from steer.flow_map import FlowMap, OdeMap, ResidualMap
from steer.loops import Diverged, Trapezoid, Warmup
from steer.metrics import GridKl
from steer.samplers import Jump, Ode, Sampler
from steer.solvers import Euler
from steer.training import METHODS, Joint, Objective, OnGrid, Plain, ToData, Uniform
from steer.training import named as by_name

STEPS = 2000
BATCH = 512
SEEDS = (0, 1)
JUMPS = (1, 2, 4, 8, 16)
TIMED = 60  # steps of a training that is timed
ROUNDS_TIMED = 3  # timings of each
SAMPLES = 50_000
BINS = 32
EXTENT = 2.0
ROUNDS = (16, 8, 4, 2, 1)  # of progressive distillation: jumps of the student of each

PLANE = ", for the plane"  # behind a name: with settings that suit the plane, not its paper's
SUITED = ("meanflow", "imf", "alpha-flow")  # whose papers weigh residuals and times for images
ALONE = "One jump alone"
PAGE = Path("docs/checkerboard.md")
DIVERGED = " | ".join(["diverged"] * len(JUMPS))
Maps = dict[int, FlowMap]
Row = dict[str, Any]
Get = Callable[[str, Callable[[], Any]], Any]  # a cell, measured or as it was kept


def names() -> list[str]:
    """The names of the literature, each followed by its variant for the plane if it has one."""
    both = ([m.name, m.name + PLANE] if m.name in SUITED else [m.name] for m in METHODS)
    return [name for pair in both for name in pair]


def named(
    name: str,
    steps: int,
    student: FlowMap | None = None,
    teacher: FlowMap | None = None,
    grid: int = 32,
) -> Objective:
    """The objective of a name; its variant for the plane has uniform times and no weights."""
    if not name.endswith(PLANE):
        return by_name(name, steps, student, teacher, grid)
    own = name.removesuffix(PLANE)
    return by_name(own, steps, student, teacher, grid, times=Uniform(), weighting=Plain())


def train(
    flow_map: ResidualMap,
    objective: Objective,
    steps: int,
    seed: int,
    watch: Callback | None = None,
) -> ResidualMap:
    """The map after so many steps, with its averaged weights."""
    schedule = Warmup(min(200, steps // 5), Trapezoid(steps, max(steps // 3, 1)))
    return fit(
        flow_map, objective, Checkerboard(BATCH, seed), steps, 1e-3, schedule, 0.995, seed, watch
    )


class Stopwatch(Callback):
    """Seconds from the first step of a training to the end of its last."""

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.start = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def timed(name: str) -> float:
    """Seconds that a short training takes, with all phases of a long one in proportion."""
    flow_map = student(0)
    watch = Stopwatch()
    train(flow_map, named(name, TIMED, copy.deepcopy(flow_map), student(1)), TIMED, 0, watch)
    return watch.seconds


def cost(name: str) -> float:
    """The seconds of a training over those of flow matching: the median of interleaved ratios."""
    if name == "flow-matching":
        return 1.0
    return statistics.median(timed(name) / timed("flow-matching") for _ in range(ROUNDS_TIMED))


def student(seed: int) -> ResidualMap:
    """An untrained map."""
    torch.manual_seed(seed)
    return plane_map()


@cache
def teacher(seed: int) -> ResidualMap:
    """A map trained by STEPS steps of flow matching."""
    return train(student(seed), named("flow-matching", STEPS), STEPS, seed)


def learned(name: str, steps: int, seed: int) -> Maps:
    """The map for each number of jumps; of progressive distillation, that of each round."""
    if name == "progressive":
        return progressive(steps, seed)
    if name == "flow-matching" and steps == STEPS:
        return dict.fromkeys(JUMPS, teacher(seed))
    given = teacher(seed) if source(name) == "teacher" else None
    flow_map = student(seed)
    objective = named(name, steps, copy.deepcopy(flow_map), given)
    return dict.fromkeys(
        (1,) if family(name) == ALONE else JUMPS, train(flow_map, objective, steps, seed)
    )


def progressive(steps: int, seed: int) -> Maps:
    """Rounds of progressive distillation (Salimans & Ho 2022).

    A jump of each student spans two jumps of the one before, that of the first two Euler steps.
    """
    before: FlowMap = OdeMap(teacher(seed), teacher(seed).schedule, steps=1, solver=Euler())
    flow_map = copy.deepcopy(teacher(seed)).requires_grad_(True)
    maps: Maps = {}
    for jumps in ROUNDS:
        objective = named("progressive", steps // len(ROUNDS), teacher=before, grid=jumps)
        maps[jumps] = train(flow_map, objective, steps // len(ROUNDS), seed)
        before = maps[jumps]
        flow_map = copy.deepcopy(flow_map).requires_grad_(True)
    return maps


def source(name: str) -> str:
    """Whether a method learns from "data" or a "teacher"."""
    return next(method.source for method in METHODS if method.name == name.removesuffix(PLANE))


def sampler(name: str, jumps: int) -> Sampler:
    """The sampler of a method.

    Euler steps for a velocity, jumps to data with fresh noise for a consistency model, jumps for a
    flow map.
    """
    if name == "flow-matching":
        return Ode(jumps)
    joint = named(name, STEPS, student(0), student(0))
    return Jump(jumps, renoise=isinstance(getattr(joint, "pairs", None), ToData))


def kl(flow_map: FlowMap, by: Sampler) -> float:
    """KL(data || samples), on the grid."""
    generator = torch.Generator().manual_seed(99)
    x = by(flow_map, torch.randn(1, SAMPLES, 2, generator=generator), generator=generator).x[0]
    x = torch.where(
        x.isfinite(), x, torch.full_like(x, 1e6)
    )  # samples that overflowed are outside the board
    square = torch.arange(BINS) * 4 // BINS
    dark = (square[:, None] + square[None, :]) % 2 == 0
    metric = GridKl(dark / dark.sum(), -EXTENT, EXTENT)
    metric.update(x)
    return float(metric.compute())


def measure(name: str, steps: int, seed: int) -> dict[str, Any]:
    """KL by number of jumps, or that the training diverged."""
    try:
        maps = learned(name, steps, seed)
    except Diverged as error:
        return {"steps": steps, "diverged": str(error)}
    return {
        "steps": steps,
        "kl": [kl(maps[k], sampler(name, k)) if k in maps else None for k in JUMPS],
    }


def row(get: Get, name: str, steps: int) -> Row:
    """A method's cells of both seeds, combined."""
    cells = [
        get(f"{name} steps={steps} seed={seed}", partial(measure, name, steps, seed))
        for seed in SEEDS
    ]
    if any("diverged" in cell for cell in cells):
        return {"steps": steps, "kl": None, "spread": None}
    kls = list(zip(*(cell["kl"] for cell in cells), strict=True))
    means, spreads = (
        [of(k) if None not in k else None for k in kls] for of in (statistics.mean, np.ptp)
    )
    return {"steps": steps, "kl": means, "spread": spreads}


def affordable(get: Get, name: str) -> int:
    """The steps of a method at the cost of STEPS steps of Lagrangian self-distillation."""
    ours, its = (get(f"cost {of}", partial(cost, of)) for of in ("lsd", name))
    return round(STEPS * ours / its)


def numbers(row: Row) -> str:
    """KL by number of jumps, as cells of a table."""
    return (
        " | ".join("" if kl is None else f"{kl:.3f}" for kl in row["kl"]) if row["kl"] else DIVERGED
    )


HEAD = """# The checkerboard table

Written by `python -m recipes.experiments.checkerboard`. KL(data || samples) after 1, 2, 4, 8 and 16
jumps (Euler steps for flow matching, jumps to data with fresh noise for consistency models), the
mean of {seeds} seeds; 50 000 samples on 32 x 32 cells that fit the board; samples of the data
distribution itself have .005; blank where a method learns one jump alone. One network for all, an
MLP of 4 x 256 on sines of x; batches of {batch}, Adam at 1e-3 with a linear decay over the last
third, moving average .995; progressive distillation alone starts from its teacher's weights. At
equal steps: {steps} each. At equal cost: the cost of {steps} steps of `lsd`. `cost` is the time of
a training over flow matching's, measured on {timed} steps that pass through all phases of a long
one, data, optimiser and averages included. A teacher's own training is not counted. Names stand for
their papers' settings, except as [the taxonomy](taxonomy.md) says; "for the plane" is the same with
uniform times and unweighted residuals, where papers on images have logit-normal times and divide
each residual by itself (p = 1). The two seeds differ by {typical:.3f} in the median cell, by
{most:.3f} at the most.

"""


def page(costs: dict[str, float], by_steps: dict[str, Row], by_cost: dict[str, Row]) -> str:
    """The text of docs/checkerboard.md."""
    spreads = [
        gap
        for rows in (by_steps, by_cost)
        for row in rows.values()
        for gap in row["spread"] or ()
        if gap is not None
    ]
    head = HEAD.format(
        seeds=len(SEEDS),
        batch=BATCH,
        steps=STEPS,
        timed=TIMED,
        typical=statistics.median(spreads),
        most=max(spreads),
    )
    jumps = " | ".join(map(str, JUMPS))
    lines = [
        f"| method | cost | {jumps} | steps at equal cost | {jumps} |",
        "|" + "---|" * (3 + 2 * len(JUMPS)),
    ]
    for name, row in by_steps.items():
        paid = by_cost[name]
        lines.append(
            f"| {title(name)} | {costs[name]:.2f} | {numbers(row)} | {paid['steps']} |"
            f" {numbers(paid)} |"
        )
    return head + "\n".join(lines) + "\n\n![KL against jumps](figures/checkerboard.png)\n"


def title(name: str) -> str:
    """A name as code, with its variant."""
    own = name.removesuffix(PLANE)
    return f"`{own}`{name[len(own) :]}"


def family(name: str) -> str:
    """The panel that a method is drawn in."""
    joint = named(name, STEPS, student(0), student(0))
    if not isinstance(joint, Joint) or joint.off_diagonal is None:
        return ""
    match joint.pairs:
        case ToData():
            return "Consistency: to data alone"
        case OnGrid(n=1):
            return ALONE
    return joint.off_diagonal.card.notion.split(",")[0].capitalize()


def draw(rows: dict[str, Row]) -> None:
    """Draws KL against jumps at equal cost, a panel for each identity.

    Flow matching and methods of one jump are in all.
    """
    families = [name for name in dict.fromkeys(map(family, rows)) if name not in ("", ALONE)]
    figure = Figure(figsize=(4 * len(families), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, notion in zip(figure.subplots(1, len(families), sharey=True), families, strict=True):
        ax.plot(
            JUMPS, rows["flow-matching"]["kl"], "--", color="#888888", label="flow-matching, Euler"
        )
        for name, row in rows.items():
            if row["kl"] and family(name) in (notion, ALONE):
                style = (
                    {"color": "black", "ms": 9, "ls": "none"}
                    if family(name) == ALONE
                    else {"ms": 3.5}
                )
                ax.plot(
                    JUMPS,
                    np.array(row["kl"], dtype=float),
                    "*" if "ls" in style else "o-",
                    label=name,
                    **style,
                )
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(JUMPS, [str(jumps) for jumps in JUMPS])
        ax.set_title(notion, fontsize=11)
        ax.set_xlabel("jumps")
        ax.grid(alpha=0.3, which="both")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(
            fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2
        )
    figure.axes[0].set_ylabel("KL(data || samples)")
    figure.suptitle(
        f"Checkerboard at the cost of {STEPS} steps of lsd, mean of {len(SEEDS)} seeds", fontsize=12
    )
    figure.savefig(FOLDER / "checkerboard.png", dpi=130)


def rows_by(get: Get) -> tuple[dict[str, float], dict[str, Row], dict[str, Row]]:
    """For each method the cost of a training, and the rows at equal steps and at equal cost."""
    costs = {name: get(f"cost {name}", partial(cost, name)) for name in names()}
    by_steps = {name: row(get, name, STEPS) for name in names()}
    return costs, by_steps, {name: row(get, name, affordable(get, name)) for name in names()}


def page_of(cells: Mapping[str, Any]) -> str:
    """docs/checkerboard.md from kept cells. Raises KeyError for a missing one."""
    return page(*rows_by(lambda key, measure: cells[key]))


def results(cells: Mapping[str, Any]) -> str:
    """The best methods at one jump and at most jumps, at equal cost."""
    by_cost = rows_by(lambda key, measure: cells[key])[2]
    rows = []
    for k in (0, len(JUMPS) - 1):
        known = [
            (row["kl"][k], name)
            for name, row in by_cost.items()
            if row["kl"] and row["kl"][k] is not None
        ]
        best = ", ".join(f"`{name}` {short(kl, 2)}" for kl, name in sorted(known)[:6])
        rows.append(["1 jump" if JUMPS[k] == 1 else f"{JUMPS[k]} jumps", best])
    return table([f"at the cost of {STEPS} steps of `lsd`", "the best six, KL"], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """That no training diverges."""
    _, by_steps, by_cost = rows_by(lambda key, measure: cells[key])
    diverged = sum(row["kl"] is None for rows in (by_steps, by_cost) for row in rows.values())
    found = f"{diverged} of {2 * len(by_steps)} trainings"
    return [
        Finding("Every objective trains on the checkerboard", "none diverges", found, diverged == 0)
    ]


def main() -> None:
    kept = Cells("checkerboard")
    draw(rows_by(kept.get)[2])
    kept.prune()
    PAGE.write_text(page_of(kept.cells))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
