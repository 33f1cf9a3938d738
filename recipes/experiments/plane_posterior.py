"""Draws from p(x1 | x_t) of a mixture in the plane against the exact posterior, at several times.

    python -m recipes.experiments.plane_posterior      # about twenty minutes on one core

Shown is the energy distance of 400 draws to as many exact ones, at 24 points x_t, over that of two
exact sets of 400: 1 is perfect, for draws of equal weight. Posterior maps draw by one evaluation;
GLASS by as many as its inner steps take, and renoising by one more than it has nodes, of the exact
velocity or map.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from recipes.experiments.training import train
from steer.analytic import GaussianMixture
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.lookahead import Glass, Guesses, Lookahead, Posterior, Renoise
from steer.lookahead.glass_flow import GlassFlow
from steer.loops import Trapezoid, Warmup
from steer.maps.posterior import PosteriorMap
from steer.metrics.energy_distance import energy_distance
from steer.networks import ContextCondition, Mlp, WithContext
from steer.training import (
    FlowMatching,
    Joint,
    Lagrangian,
    Objective,
    Semigroup,
    TeacherTarget,
    VelocityMatching,
)
from steer.training import Posterior as OfPosterior

TIMES = (0.05, 0.3, 0.6, 0.9)
POINTS = 24
DRAWS = 400
STEPS = 4000
BATCH = 512


def law() -> GaussianMixture:
    """A mixture of three anisotropic components."""
    std = torch.tensor([[0.3, 0.9], [0.7, 0.5], [1.1, 0.4]], dtype=torch.float64)
    return GaussianMixture([[2.0, -1.0], [0.5, 1.5], [-2.0, 0.0]], std, [1.0, 2.0, 3.0], steps=16)


class Draws(StreamData):
    """An endless data set of exact samples."""

    def draw(self, generator: torch.Generator) -> tuple[Tensor, None]:
        return law().sample(self.batch_size, generator).float(), None


def glass(steps: int) -> GlassFlow:
    """The flow to distil, of the exact velocity."""
    return GlassFlow(law(), steps)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "from scratch, Lagrangian": lambda: Joint(FlowMatching(), Lagrangian(), 0.75),
    "from scratch, semigroup": lambda: Joint(FlowMatching(), Semigroup(), 0.75),
    "from GLASS, Lagrangian": lambda: Joint(VelocityMatching(glass(1)), Lagrangian(), 0.5),
    "from GLASS, 8 legs": lambda: Joint(
        VelocityMatching(glass(1)), Semigroup(legs=8), 0.5, velocity=TeacherTarget(glass(1))
    ),
}
LOOKAHEADS: dict[str, Lookahead] = {
    "GLASS, 4 evaluations": Glass(DRAWS, steps=2),
    "GLASS, 16 evaluations": Glass(DRAWS, steps=8),
    "renoising, 2 evaluations": Renoise(DRAWS, nodes=1),
    "renoising, 5 evaluations": Renoise(DRAWS, nodes=4),
}


def learned(name: str) -> PosteriorMap:
    """The mixture with an inner map trained to draw from its posterior."""
    torch.manual_seed(0)
    network = Mlp(2, 128, 3, ContextCondition(128), data_std=1.5, beside=2)
    inner = ResidualMap(WithContext(network), Linear())
    objective = OfPosterior(OBJECTIVES[name]())
    train(
        inner,
        objective,
        Draws(BATCH),
        STEPS,
        2e-3,
        Warmup(100, Trapezoid(STEPS, STEPS // 2)),
        0.995,
    )
    return PosteriorMap(law(), inner.double())


def misses(guesses: Callable[[Tensor, float], Guesses]) -> list[list[float]]:
    """The mean over points of the energy distance to exact draws over its floor, at each time.

    With its standard error.
    """
    world = law()
    found = []
    for k, t in enumerate(TIMES):
        generator = torch.Generator().manual_seed(k)
        x1 = world.sample(POINTS, generator)
        x0 = torch.randn(POINTS, 2, generator=generator, dtype=torch.float64)
        x_t = world.schedule.interpolate(x0, x1, torch.full((POINTS,), t, dtype=torch.float64))
        exact, again = (world.posterior_sample(x_t, t, DRAWS, generator) for _ in range(2))
        drawn = guesses(x_t, t)
        far = [
            energy_distance(drawn.x1[:, i], exact[i], drawn.log_w[:, i]).abs()
            for i in range(POINTS)
        ]
        floor = torch.stack(
            [energy_distance(again[i], exact[i]).abs() for i in range(POINTS)]
        ).mean()
        ratios = torch.stack(far) / floor
        found.append([float(ratios.mean()), float(ratios.std() / POINTS**0.5)])
    return found


def of_map(name: str) -> list[list[float]]:
    """The ratios of a trained posterior map."""
    flow_map = learned(name)
    lookahead = Posterior(DRAWS)
    return misses(
        lambda x, t: lookahead(flow_map, x, t, generator=torch.Generator().manual_seed(7))
    )


def of_lookahead(name: str) -> list[list[float]]:
    """The ratios of look-aheads that need no training."""
    world = law()
    return misses(
        lambda x, t: LOOKAHEADS[name](world, x, t, generator=torch.Generator().manual_seed(7))
    )


def draw(rows: dict[str, list[list[float]]]) -> None:
    """Draws the ratios against t."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for name, row in rows.items():
        line = "-" if name.startswith("from") else "--"
        middle, error = zip(*row, strict=True)
        ax.errorbar(
            TIMES, middle, error, linestyle=line, marker="o", markersize=4, capsize=2, label=name
        )
    ax.axhline(1, color="#888888", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_xlabel("t")
    ax.set_ylabel("energy distance to p(x1 | x_t), over its floor")
    ax.grid(alpha=0.3, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    figure.savefig(FOLDER / "plane_posterior.png", dpi=150)


def results(cells: Mapping[str, Any]) -> str:
    """Distances over their floor at each time."""
    named = [(f"posterior map {name}", name) for name in OBJECTIVES] + [
        (name, name) for name in LOOKAHEADS
    ]
    rows = [
        [title, *(within(ratio, error, 2) for ratio, error in cells[name])] for title, name in named
    ]
    return table(["draws", *(f"t = {short(t, 2)}" for t in TIMES)], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The best of the posterior maps."""
    worst = min(max(ratio for ratio, _ in cells[name]) for name in OBJECTIVES)
    claim = "One evaluation of a posterior map is a draw from the posterior of x1"
    return [
        Finding(
            claim,
            "within twice the sampling floor at all times",
            f"{worst:.2f} at worst, by the best",
            worst <= 2,
        )
    ]


def main() -> None:
    kept = Cells("plane_posterior")
    for name in OBJECTIVES:
        kept.get(name, partial(of_map, name))
    for name in LOOKAHEADS:
        kept.get(name, partial(of_lookahead, name))
    kept.prune()
    print(results(kept.cells))
    draw({name: kept.cells[name] for name in (*OBJECTIVES, *LOOKAHEADS)})


if __name__ == "__main__":
    main()
