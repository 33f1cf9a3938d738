"""The benefit of the map's look-ahead, for a reward of twelve fine lobes on a ring of eight modes.

    python -m recipes.experiments.ring_lobes      # ten minutes on one core

r(x) = 40 cos(12 theta), smoothed at the origin, on the ring of radius 4.75 with modes of std .3;
1024 particles, resampling below nine tenths of them, five seeds. Shown are the squared maximum mean
discrepancy (bandwidth .3) of the weighted samples to exact ones, beside that of as many exact
draws, the number of resamplings, the error of log Z, and how much of the final reward's variance a
look-ahead does not predict.
"""

import statistics
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, table
from steer.analytic import ring
from steer.analytic.benchmarks import Summed
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump
from steer.metrics.mmd import mmd
from steer.samplers import PathWeights, TrajectoryTilting
from steer.tilt import Tilt

SEEDS = 5
PARTICLES = 1024
STEPS = (50, 100, 200, 500)
BELOW = 0.9
BANDWIDTH = 0.3
TRUTH = 4096
HIGHEST = 40.0
LOBES = 12
LOOKAHEADS: dict[str, Lookahead] = {
    "no look-ahead": Identity(),
    "denoiser": Denoiser(),
    "flow map": MapJump(),
}
FIGURES = {
    "mmd": "MMD² to the true law",
    "resamples": "resamplings",
    "log_z_error": "|error of log Z|",
}
Row = dict[str, list[float]]


def lobes(x: Tensor) -> Tensor:
    """The reward, HIGHEST cos(LOBES theta), smoothed at the origin."""
    z = torch.complex(x[:, 0], x[:, 1]) / (0.01 + x.square().sum(1)).sqrt()
    return HIGHEST * (z**LOBES).real


@cache
def world() -> Summed:
    """The ring, the lobes, and the tilted law by sums over a grid."""
    return Summed(ring(std=0.3, steps=16), lobes, HIGHEST, extent=7.0, spacing=0.01)


@cache
def truth() -> Tensor:
    """Exact draws."""
    return world().sample(TRUTH, torch.Generator().manual_seed(7))


def measure(name: str, steps: int) -> Row:
    """The metrics of one look-ahead at one number of steps, for each seed."""
    generator = torch.Generator().manual_seed(steps)
    x0 = torch.randn(SEEDS, PARTICLES, 2, generator=generator, dtype=torch.float64)
    sampler = TrajectoryTilting(
        steps, LOOKAHEADS[name], BELOW, weighting=PathWeights()
    )  # the paper's
    result = sampler(world().flow_map, x0, Tilt(world().reward), generator=generator)
    rewards = torch.stack([world().reward(x) for x in result.x])
    log_z = result.log_z
    assert log_z is not None
    return {
        "mmd": [
            float(mmd(x, truth(), BANDWIDTH, w))
            for x, w in zip(result.x, result.log_w, strict=True)
        ],
        "resamples": result.trace["resampled"].sum(0).double().tolist(),
        "log_z_error": (log_z - world().log_z).abs().tolist(),
        "reward": (result.log_w.softmax(1) * rewards).sum(1).tolist(),
        "length": result.trace["thermodynamic_length"].sum(0).tolist(),
    }


def floor() -> Row:
    """The metrics of as many exact draws."""
    draws = [
        world().sample(PARTICLES, torch.Generator().manual_seed(100 + seed))
        for seed in range(4 * SEEDS)
    ]
    return {
        "mmd": [float(mmd(x, truth(), BANDWIDTH)) for x in draws],
        "reward": [float(world().reward(x).mean()) for x in draws],
    }


def foresight(name: str) -> list[float]:
    """E[(r(end) - r(look-ahead))^2] / (2 var r(end)), at t = 0, .1, ..., .9.

    Along unguided flow lines; 1 is the value of an independent guess.
    """
    flow_map = world().flow_map
    x0 = torch.randn(4096, 2, generator=torch.Generator().manual_seed(5)).double()
    end = world().reward(flow_map(x0, 0.0, 1.0))
    missed = []
    for t in [k / 10 for k in range(10)]:
        guess = world().reward(LOOKAHEADS[name](flow_map, flow_map(x0, 0.0, t), t).x1[0])
        missed.append(float((end - guess).square().mean() / (2 * end.var())))
    return missed


def mean_and_error(values: list[float]) -> str:
    """Mean and standard error over the seeds, as text."""
    mean = statistics.mean(values)
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ± {error:.4f}" if abs(mean) < 1 else f"{mean:.1f} ± {error:.1f}"


def draw(rows: dict[str, list[Row]], missed: dict[str, list[float]], exact: Row) -> None:
    """Draws the metrics against steps, and the unpredicted variance against time."""
    figure = Figure(figsize=(15, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    for ax, (key, title) in zip(axes, FIGURES.items(), strict=False):
        for name, cells in rows.items():
            means = [statistics.mean(cell[key]) for cell in cells]
            errors = [statistics.stdev(cell[key]) / SEEDS**0.5 for cell in cells]
            ax.errorbar(STEPS, means, errors, marker="o", markersize=4, capsize=3, label=name)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(STEPS, [str(n) for n in STEPS])
        ax.minorticks_off()
        ax.set_xlabel("steps")
        ax.set_title(title, fontsize=11)
    axes[0].axhline(
        statistics.mean(map(abs, exact["mmd"])),
        color="#888888",
        linestyle="--",
        label="exact draws",
    )
    for name, values in missed.items():
        axes[3].plot([k / 10 for k in range(10)], values, marker="o", markersize=4, label=name)
    axes[3].set_xlabel("t")
    axes[3].set_title("what r(look-ahead) misses of r(end)", fontsize=11)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(FOLDER / "ring_lobes.png", dpi=150)


def results(cells: Mapping[str, Any]) -> str:
    """Every metric by look-ahead and steps."""
    rows = [
        [f"{title}: {name}", *(mean_and_error(cells[f"{name} {n}"][key]) for n in STEPS)]
        for key, title in {**FIGURES, "reward": "reward", "length": "thermodynamic length"}.items()
        for name in LOOKAHEADS
    ]
    size = statistics.mean(map(abs, cells["floor"]["mmd"]))
    exact = (
        f"As many exact draws: MMD² {size:.5f} in size, reward"
        f" {mean_and_error(cells['floor']['reward'])}."
    )
    return table(["", *(f"{n} steps" for n in STEPS)], rows) + "\n\n" + exact


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """At the fewest steps, against the better of the others."""

    def factor(key: str) -> float:
        means = {name: statistics.mean(cells[f"{name} {STEPS[0]}"][key]) for name in LOOKAHEADS}
        return min(mean for name, mean in means.items() if name != "flow map") / means["flow map"]

    nearer = factor("mmd")
    fewer = factor("resamples")
    lobes = f"A reward of fine lobes, {STEPS[0]} steps, by the map's look-ahead"
    return [
        Finding(f"{lobes}: nearer to the law", "7 times", f"{nearer:.1f} times", nearer >= 7),
        Finding(f"{lobes}: fewer resamplings", "6 times", f"{fewer:.1f} times", fewer >= 6),
    ]


def main() -> None:
    kept = Cells("ring_lobes")
    rows: dict[str, Any] = {
        name: [kept.get(f"{name} {n}", partial(measure, name, n)) for n in STEPS]
        for name in LOOKAHEADS
    }
    missed = {name: kept.get(f"foresight {name}", partial(foresight, name)) for name in LOOKAHEADS}
    exact = kept.get("floor", floor)
    kept.prune()
    print(results(kept.cells))
    draw(rows, missed, exact)


if __name__ == "__main__":
    main()
