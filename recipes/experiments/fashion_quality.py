"""The benefit of a look-ahead against the quality of its map: steering by less trained maps.

    python -m recipes.experiments.fashion_quality      # half an hour on one core, resumable

The velocity is always that of the shipped map, and no jump is assumed to follow it, so that only
the look-ahead changes: jumps of a small U-Net after 100, 300 and 1000 steps of self-distillation
from random weights, and the shipped map's. As baselines: the denoiser, which a model without jumps
has, and no look-ahead. Steered to ten classes by trajectory tilting, by noise optimisation and by
the best of N single jumps, at 150 forward-equivalents a sample as in `fashion_steering`. The
x axis is the Frechet distance of 5000 single jumps.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.fashion_objectives import distance
from recipes.experiments.fashion_steering import (
    CLASSES,
    EPS,
    JUDGE_BY,
    PARTICLES,
    SCALE,
    STEER_BY,
    Method,
    judged,
    over_seeds,
    spent,
)
from recipes.experiments.findings import Finding, short, table, within
from recipes.experiments.training import train
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer.data import FashionMnist
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.guidance import Unconditional
from steer.interpolant import Linear, Time
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump
from steer.loops import Trapezoid, Warmup
from steer.networks import UNet
from steer.samplers import BestOfN, Jump, NoiseOptimisation, TrajectoryTilting
from steer.tilt import Tilt
from steer.training import FlowMatching, Joint, Semigroup

SEEDS = 2
BUDGET = 150
LEARNED = (100, 300, 1000)
LEARNERS = Path("runs/figures")
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
SHIPPED = "shipped"
MAPS = (SHIPPED, *map(str, reversed(LEARNED)))


class Unlabelled(FashionMnist):
    """The images without their classes."""

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Cond]:
        return super().draw(generator)[0], None


class Patched(FlowMap):
    """The velocity of one map and the jumps of another, which are inconsistent."""

    def __init__(self, flow_map: FlowMap, jumps: FlowMap):
        super().__init__()
        self.flow_map = flow_map
        self.jumps = jumps
        self.schedule = flow_map.schedule

    def velocity(self, x: Tensor, t: Time, cond: Cond = None) -> Tensor:
        return self.flow_map.velocity(x, t, cond)

    def forward(self, x: Tensor, s: Time, t: Time, cond: Cond = None) -> Tensor:
        return self.jumps(x, s, t, None)


def learner(steps: int) -> ResidualMap:
    """A map after so many steps, kept in a file."""
    torch.manual_seed(0)
    flow_map = ResidualMap(UNet(1, (32, 64), blocks=1, patch=2), Linear())
    path = LEARNERS / f"fashion_quality_{steps}.safetensors"
    if path.exists():
        flow_map.load_state_dict(load_file(path))
        return flow_map.eval().requires_grad_(False)
    objective = Joint(FlowMatching(), Semigroup(), 0.5)
    schedule = Warmup(min(steps // 4, 100), Trapezoid(steps, steps // 2))
    train(
        flow_map.train(),
        objective,
        Unlabelled(64),
        steps,
        1e-3,
        schedule,
        0.98,
        precision="bf16-mixed",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in flow_map.state_dict().items()}, path)
    return flow_map


def model(name: str) -> FlowMap:
    """The unconditional shipped map, or its velocity with the jumps of a learner."""
    shipped = Unconditional(steer.load("fashion"))
    return shipped if name == SHIPPED else Patched(shipped, learner(int(name)))


def tilting(lookahead: Lookahead, passes: int, budget: int) -> TrajectoryTilting:
    """Trajectory tilting with the steps that the budget allows."""
    return TrajectoryTilting(budget // passes - 1, lookahead, eps=EPS, max_batch=160)


METHODS: dict[str, Method] = {
    "FMTT": Method(partial(tilting, MapJump(assume_consistent=False), 4)),
    "noise optimisation": Method(lambda b: NoiseOptimisation(b // 3 - 1, max_batch=160)),
    "best of N single jumps": Method(lambda b: BestOfN(Jump(1, max_batch=320)), lambda b: b),
}
INSTEAD: dict[str, Method] = {
    "FMTT, the denoiser instead": Method(partial(tilting, Denoiser(), 3)),
    "FMTT, no look-ahead": Method(partial(tilting, Identity(), 1)),
}


def measure(method: Method, name: str, seed: int) -> dict:
    """One cell: the method with one map."""
    judge = load_classifier(JUDGE_BY)
    reward = Decoded(ClassLogProbability(load_classifier(STEER_BY)), from_signed)
    generator = torch.Generator().manual_seed(seed)
    n = method.candidates(BUDGET)
    prompts, particles = (CLASSES, PARTICLES) if n == 1 else (CLASSES * PARTICLES, n)
    labels = torch.arange(CLASSES).repeat_interleave(prompts // CLASSES)
    x0 = torch.randn(prompts, particles, 1, 28, 28, generator=generator)
    result = method.sampler(BUDGET)(model(name), x0, Tilt(reward, SCALE), labels, generator)
    x = result.x.reshape(CLASSES, PARTICLES, 1, 28, 28)
    log_w = result.log_w.reshape(CLASSES, PARTICLES)
    return {**judged(x, log_w, reward, judge), "evaluations": vars(result.evaluations)}


def quality(name: str) -> float:
    """Frechet distance of single jumps."""
    return distance(model(name), Jump(1, max_batch=500))  # type: ignore[arg-type]


def draw(
    maps: dict[str, float], rows: dict[str, dict[str, list[dict]]], instead: dict[str, list[dict]]
) -> None:
    """Draws the judge's accuracy and diversity against the map's distance, the best map first."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "accuracy_weighted": "judge's accuracy, by the weights",
        "diversity": "diversity (1 - cosine)",
    }
    for ax, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for method, cells in rows.items():
            y, bars = zip(*(over_seeds(cells[m], name) for m in maps), strict=True)
            ax.errorbar(
                list(maps.values()), y, bars, marker="o", markersize=4, capsize=3, label=method
            )
        for (method, seeds), style in zip(instead.items(), ("--", ":"), strict=True):
            level, error = over_seeds(seeds, name)
            ax.axhspan(level - error, level + error, color="#555555", alpha=0.12, linewidth=0)
            ax.axhline(level, color="#555555", linestyle=style, linewidth=1.2, label=method)
        ax.set_xscale("log")
        ax.set_xticks(
            list(maps.values()), [f"{far:.3g}\n{name}" for name, far in maps.items()], fontsize=8
        )
        ax.minorticks_off()
        ax.set_xlabel("Frechet distance of single jumps, and steps learned")
        ax.set_title(title, fontsize=11)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=8,
        frameon=False,
    )
    figure.savefig(FOLDER / "fashion_quality.png", dpi=150)


def label(name: str) -> str:
    """The label of a map in the picture."""
    return name if name == SHIPPED else f"{name} steps"


def results(cells: Mapping[str, Any]) -> str:
    """A row for each method and map; the map's distance beside it."""
    settings = [(key, name) for key in METHODS for name in MAPS] + [
        (key, SHIPPED) for key in INSTEAD
    ]
    rows = []
    for key, name in settings:
        seeds = [cells[f"{key} map={name} seed={s}"] for s in range(SEEDS)]
        figures = [
            over_seeds(seeds, f) for f in ("accuracy_weighted", "accuracy", "reward", "diversity")
        ]
        which = ["", ""] if key in INSTEAD else [label(name), short(cells[f"distance {name}"], 2)]
        rows.append(
            [
                key,
                *which,
                f"{spent(seeds[0]):.0f}",
                *(within(mean, error) for mean, error in figures),
            ]
        )
    heads = [
        "method",
        "map",
        "distance",
        "evaluations",
        "judge, by the weights",
        "unweighted",
        "reward",
        "diversity",
    ]
    return table(heads, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """None."""
    return []


def main() -> None:
    kept = Cells("fashion_quality", WEIGHTS)

    def seeds(key: str, name: str, method: Method) -> list[dict]:
        return [
            kept.get(f"{key} map={name} seed={s}", partial(measure, method, name, s))
            for s in range(SEEDS)
        ]

    maps = {name: kept.get(f"distance {name}", partial(quality, name)) for name in MAPS}
    instead = {key: seeds(key, SHIPPED, method) for key, method in INSTEAD.items()}
    rows = {
        key: {name: seeds(key, name, method) for name in MAPS} for key, method in METHODS.items()
    }
    kept.prune()
    print(results(kept.cells))
    draw(maps, rows, instead)


if __name__ == "__main__":
    main()
