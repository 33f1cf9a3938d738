"""Exactness of trajectory tilting for every look-ahead: log Z and mode weights on a ring of eight.

    python -m recipes.experiments.ring_tilting        # half an hour on one core

Quadratic reward (center (3, 2), precision 1/2), 4096 particles, 10 seeds, eps = 1 - t, extra drift
chi = 0 or (1 - t)/2. The oracle jumps by 16 Runge-Kutta steps per unit of time, which takes nearly
all of the half hour and errs by 3e-5 in the median.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, signed, table
from rewards import Quadratic
from steer.analytic import ring
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump
from steer.samplers import PathWeights, TrajectoryTilting, TransitionWeights
from steer.tilt import Tilt

SEEDS = 10
PARTICLES = 4096
STEPS = (50, 100, 200, 400)
LOOKAHEADS: dict[str, Lookahead] = {
    "identity": Identity(),
    "denoiser": Denoiser(),
    "map": MapJump(),
}
# look-ahead, weighting, chi; with the default, transition ratios, kicks stay in a trust region
SETTINGS = [
    (name, weighting, chi)
    for name in LOOKAHEADS
    for weighting, chi in (("path", 0.0), ("path", 0.5), ("transition", 0.0), ("left", 0.0))
    if name != "map" or weighting != "left"
]
WORDS = {"path": "trapezoidal", "left": "left end", "transition": "transition"}
WEIGHTINGS = {
    "path": PathWeights(),
    "left": PathWeights(trapezoidal=False),
    "transition": TransitionWeights(),
}


def measure(lookahead: Lookahead, weighting: str, chi: float, steps: int) -> dict:
    """Errors of one setting over the seeds.

    Log Z (mean, standard error), the worst mode weight, ESS, resamplings.
    """
    world = ring(steps=16)
    reward = Quadratic(torch.tensor([3.0, 2.0], dtype=torch.float64), 0.5)
    law, log_z = world.tilted(reward)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SEEDS, PARTICLES, 2, generator=generator, dtype=torch.float64)
    sampler = TrajectoryTilting(
        steps,
        lookahead,
        eps=lambda t: 1 - t,
        chi=(lambda t: chi * (1 - t)) if chi else None,
        weighting=WEIGHTINGS[weighting],
        max_batch=8192,
    )
    result = sampler(world, x0, Tilt(reward), generator=generator)
    assert result.log_z is not None
    error = result.log_z - log_z
    modes = law.responsibilities(result.x.flatten(0, 1)).unflatten(0, (SEEDS, PARTICLES))
    weights = (result.log_w.softmax(1)[..., None] * modes).sum(1)
    worst = int((weights.mean(0) - law.weights).abs().argmax())
    return {
        "log_z_error": float(error.mean()),
        "log_z_std_error": float(error.std() / SEEDS**0.5),
        "mode_weight_error": float((weights.mean(0) - law.weights)[worst]),
        "mode_weight_std_error": float(weights[:, worst].std() / SEEDS**0.5),
        "ess_min": float(result.trace["ess"].min()),
        "resamples": float(result.trace["resampled"].sum() / SEEDS),
    }


def extrapolated(cells: list[dict]) -> tuple[float, float]:
    """The log-Z error at step zero and its standard error.

    By a line in h through the settings, weighted by their errors.
    """
    h = torch.tensor([1 / steps for steps in STEPS], dtype=torch.float64)
    y = torch.tensor([cell["log_z_error"] for cell in cells], dtype=torch.float64)
    precision = torch.tensor([cell["log_z_std_error"] for cell in cells], dtype=torch.float64) ** -2
    design = torch.stack((torch.ones_like(h), h), dim=1)
    covariance = torch.linalg.inv(design.mT @ (precision[:, None] * design))
    intercept = (covariance @ (design.mT @ (precision * y)))[0]
    return float(intercept), float(covariance[0, 0].sqrt())


def draw(rows_of: dict[str, list[dict]]) -> None:
    """Draws the error of log Z against the step, one panel per look-ahead."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, name in zip(figure.subplots(1, 3, sharey=True), LOOKAHEADS, strict=True):
        rows = [
            (key.removeprefix(f"{name} "), cells)
            for key, cells in rows_of.items()
            if key.startswith(f"{name} ")
        ]
        for shift, (label, cells) in enumerate(rows):
            x = [1 / steps * (1 + 0.04 * shift) for steps in STEPS]
            ax.errorbar(
                x,
                [cell["log_z_error"] for cell in cells],
                [cell["log_z_std_error"] for cell in cells],
                marker="o",
                markersize=3,
                linewidth=1,
                capsize=2,
                label=label,
            )
        ax.axhline(0, color="#888888", linewidth=0.8)
        ax.axhspan(-0.02, 0.02, color="#888888", alpha=0.15, linewidth=0)
        ax.set_xscale("log")
        ax.set_xticks([1 / steps for steps in STEPS], [f"1/{steps}" for steps in STEPS])
        ax.minorticks_off()
        ax.set_title(f"look-ahead: {name}", fontsize=11)
        ax.set_xlabel("step")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(-0.1, 0.1)
    figure.axes[0].set_ylabel("error of log Z")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(FOLDER / "ring_tilting.png", dpi=150)


def rows_from(cells: Mapping[str, Any]) -> dict[str, list[dict]]:
    """The cells of each setting, by steps."""
    settings = [f"{name} {weighting} chi={chi}" for name, weighting, chi in SETTINGS]
    return {setting: [cells[f"{setting} steps={n}"] for n in STEPS] for setting in settings}


def results(cells: Mapping[str, Any]) -> str:
    """Error of log Z by steps and at step zero; the worst error of a mode's weight."""
    rows = []
    for (name, weighting, chi), row in zip(SETTINGS, rows_from(cells).values(), strict=True):
        errors = [(c["log_z_error"], c["log_z_std_error"]) for c in row]
        worst = max((c["mode_weight_error"] for c in row), key=abs)
        drift = "(1-t)/2" if chi else "none"
        rows.append(
            [
                f"{name}, {WORDS[weighting]}, {drift}",
                *(f"{signed(e)} ± {signed(s)[1:]}" for e, s in [*errors, extrapolated(row)]),
                signed(worst),
            ]
        )
    return table(
        ["look-ahead, weights, extra drift", *STEPS, "at step 0", "worst mode weight"], rows
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The errors at 100 steps."""
    at_100 = [row[STEPS.index(100)] for row in rows_from(cells).values()]
    error = max((c["log_z_error"] for c in at_100), key=abs)
    fits = all(abs(c["log_z_error"]) < 0.02 + 3 * c["log_z_std_error"] for c in at_100)
    claim = "Trajectory tilting is exact on the ring by every look-ahead"
    return [
        Finding(claim, "log Z within .02 + 3 s.e. at 100 steps", f"{signed(error)} at worst", fits)
    ]


def main() -> None:
    cells = Cells("ring_tilting")
    for name, weighting, chi in SETTINGS:
        for n in STEPS:
            key = f"{name} {weighting} chi={chi} steps={n}"
            cells.get(key, partial(measure, LOOKAHEADS[name], weighting, chi, n))
    cells.prune()
    print(results(cells.cells))
    draw(rows_from(cells.cells))


if __name__ == "__main__":
    main()
