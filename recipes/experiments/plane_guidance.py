"""The bias of guidance without weights, on eight Gaussians with a reward against the left half.

    python -m recipes.experiments.plane_guidance      # some minutes on one core

r(x) = -x_0^2 where x_0 < 0, else 0. Shown is the fraction of samples right of zero and the worst
mode's share, for trajectory tilting without resampling (plain, and corrected once by its final
weights) and for the value-guided SDE.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.integrate import quad

from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from steer.analytic import ring
from steer.guidance import Guided, ValueGuidance
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump, Posterior
from steer.samplers import PathWeights, Result, Sde, TrajectoryTilting
from steer.tilt import Tilt
from steer.value import Value

SEEDS = 10
PARTICLES = 1024
STEPS = 100
MANY = 4096
FINER = (100, 300)
LOOKAHEADS: dict[str, Lookahead] = {
    "map": MapJump(),
    "denoiser": Denoiser(),
    "identity": Identity(),
}

SOURCES: dict[str, Lookahead] = {
    "posterior, 64 draws": Posterior(64),
    "map": MapJump(),
    "denoiser": Denoiser(),
}


def reward(x: torch.Tensor) -> torch.Tensor:
    """-x_0^2 where x_0 < 0, else 0."""
    return -x[:, 0].clamp_max(0).square()


def true_fraction() -> float:
    """The tilted law's probability of x_0 > 0, by quadrature of the first coordinate."""
    world = ring()

    def density(x: float, tilted: bool) -> float:
        parts = torch.exp(-0.5 * ((x - world.means[:, 0]) / 0.6) ** 2).sum()
        return float(parts) * (math.exp(-(x**2)) if tilted else 1.0)

    right = quad(density, 0, 12, args=(False,), points=[3.36, 4.75])[0]
    return right / (right + quad(density, -12, 0, args=(True,), points=[-4.75, -3.36, -0.4])[0])


def measure(result: Result) -> dict:
    """Fractions right of zero over the seeds, plain and weighted, and the samples of one seed."""
    right = (result.x[..., 0] > 0).double()
    weighted = (result.log_w.softmax(1) * right).sum(1)
    plain = right.mean(1)
    return {
        "plain": float(plain.mean()),
        "plain_std_error": float(plain.std() / SEEDS**0.5),
        "weighted": float(weighted.mean()),
        "weighted_std_error": float(weighted.std() / SEEDS**0.5),
        "samples": result.x[0, :600].round(decimals=3).tolist(),
    }


def corrected(particles: int, steps: int) -> dict:
    """The fractions of the map's look-ahead alone, at other numbers of particles and steps."""
    found = tilting(MapJump(), particles, steps)
    return {name: found[name] for name in ("weighted", "weighted_std_error")}


def tilting(lookahead: Lookahead, particles: int = PARTICLES, steps: int = STEPS) -> dict:
    """Trajectory tilting without resampling."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SEEDS, particles, 2, generator=generator, dtype=torch.float64)
    sampler = TrajectoryTilting(
        steps, lookahead, resample_below=0.0, weighting=PathWeights()
    )  # the paper's drift
    return measure(sampler(ring(), x0, Tilt(reward), generator=generator))


def value_guided(lookahead: Lookahead) -> dict:
    """The SDE of the velocity b + c_t grad V."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SEEDS, PARTICLES, 2, generator=generator, dtype=torch.float64)
    guided = Guided(ring(), ValueGuidance(Value(Tilt(reward), lookahead)), generator=generator)
    return measure(Sde(STEPS)(guided, x0, generator=generator))


def draw(cells: dict[str, dict]) -> None:
    """Draws the samples of each method side by side, with the fraction right of zero."""
    figure = Figure(figsize=(3 * len(cells) / 2, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(cells) // 2, sharex=True, sharey=True).flatten()
    for ax, (name, cell) in zip(axes, cells.items(), strict=True):
        x, y = zip(*cell["samples"], strict=True)
        ax.scatter(x, y, s=3, alpha=0.5, color="#2a6f97", linewidths=0)
        ax.axvline(0, color="#999999", linewidth=0.8)
        ax.set_title(f"{name}\n{cell['plain']:.1%} right of 0", fontsize=10)
        ax.set_aspect("equal")
        ax.set_xlim(-7, 7)
        ax.set_ylim(-7, 7)
    figure.suptitle(
        f"Guidance without weights; the tilted law has {true_fraction():.1%} right of 0",
        fontsize=12,
    )
    figure.savefig(FOLDER / "plane_guidance.png", dpi=130)


def results(cells: Mapping[str, Any]) -> str:
    """Fractions right of zero, plain and corrected once."""

    def fractions(cell: dict, name: str) -> str:
        return within(cell[name], cell[f"{name}_std_error"], 4)

    tilted = [(f"FMTT's drift, {n}", cells[f"tilting {n}"]) for n in LOOKAHEADS]
    rows = [[name, fractions(cell, "plain"), fractions(cell, "weighted")] for name, cell in tilted]
    rows += [
        [f"value-guided SDE, {n}", fractions(cells[f"value {n}"], "plain"), ""] for n in SOURCES
    ]
    for steps in FINER:
        cell = cells[f"tilting map, {MANY} particles, {steps} steps"]
        rows.append(
            [f"FMTT's drift, map, {MANY} particles, {steps} steps", "", fractions(cell, "weighted")]
        )
    return table(["method", "right of 0, unweighted", "corrected once by the final weights"], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """That guidance alone is the less biased, the better the look-ahead (as published)."""
    drift = [cells[f"tilting {n}"]["plain"] for n in ("map", "denoiser", "identity")]
    found = " > ".join(short(value) for value in drift) + f", the law's {short(true_fraction())}"
    claim = "Without weights, the drift of the map is nearest to the law"
    return [
        Finding(
            claim,
            "map > denoiser > identity, as published",
            found,
            drift == sorted(drift, reverse=True),
        )
    ]


def main() -> None:
    kept = Cells("plane_guidance")
    cells = {
        f"FMTT drift, {n}": kept.get(f"tilting {n}", partial(tilting, a))
        for n, a in LOOKAHEADS.items()
    }
    cells |= {
        f"value, {n}": kept.get(f"value {n}", partial(value_guided, a)) for n, a in SOURCES.items()
    }
    for steps in (
        FINER
    ):  # is what the map is off by after the correction the particles' doing or the step's?
        kept.get(f"tilting map, {MANY} particles, {steps} steps", partial(corrected, MANY, steps))
    kept.prune()
    print(f"true fraction right of zero: {true_fraction():.4f}\n{results(kept.cells)}")
    draw(cells)


if __name__ == "__main__":
    main()
