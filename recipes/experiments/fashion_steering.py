"""Class steering of the unconditional map: trajectory tilting against best of N, at equal cost.

    python -m recipes.experiments.fashion_steering      # about an hour on one core
    python -m recipes.experiments.fashion_steering 3    # with so many seeds

Every method may spend 40, 80 or 150 forward-equivalents of the network per returned sample (a
backward is priced at two forwards). The reward is the log-probability of the wanted class under one
classifier; another, of different architecture and seed, judges. Ten classes, 16 samples each, six
seeds.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, table, within
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from rewards.networks import Classifier
from steer.guidance import Unconditional
from steer.lookahead import Denoiser, MapJump
from steer.metrics import ClassAgreement, PairwiseDiversity
from steer.samplers import BestOfN, Jump, Sampler, TrajectoryTilting
from steer.tilt import Tilt

SEEDS = 6
PARTICLES = 16
CLASSES = 10
SCALE = 10.0
EPS = 4.0
JUMPS = 4
BUDGETS = (40, 80, 150)
STEER_BY = "fashion-residual"
JUDGE_BY = "fashion-patch"
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)


@dataclass(frozen=True)
class Method:
    """A sampler for a budget of forward-equivalents, and its candidates per returned sample."""

    sampler: Callable[[int], Sampler]
    candidates: Callable[[int], int] = lambda budget: 1


METHODS = {
    "FMTT, map look-ahead": Method(
        lambda b: TrajectoryTilting(b // 4, MapJump(), eps=EPS, max_batch=160)
    ),
    "FMTT, denoiser look-ahead": Method(
        lambda b: TrajectoryTilting(b // 3 - 1, Denoiser(), eps=EPS, max_batch=160)
    ),
    "best of N, 4 jumps": Method(
        lambda b: BestOfN(Jump(JUMPS, max_batch=320)), lambda b: b // JUMPS
    ),
    "best of N, 1 jump": Method(lambda b: BestOfN(Jump(1, max_batch=320)), lambda b: b),
}


def measure(method: Method, budget: int, seed: int) -> dict:
    """One cell: reward, judge's accuracy, diversity and evaluations."""
    flow_map = Unconditional(steer.load("fashion"))
    judge = load_classifier(JUDGE_BY)
    reward = Decoded(ClassLogProbability(load_classifier(STEER_BY)), from_signed)
    generator = torch.Generator().manual_seed(seed)
    n = method.candidates(budget)
    prompts, particles = (CLASSES, PARTICLES) if n == 1 else (CLASSES * PARTICLES, n)
    labels = torch.arange(CLASSES).repeat_interleave(prompts // CLASSES)
    x0 = torch.randn(prompts, particles, 1, 28, 28, generator=generator)
    result = method.sampler(budget)(flow_map, x0, Tilt(reward, SCALE), labels, generator)
    x = result.x.reshape(CLASSES, PARTICLES, 1, 28, 28)
    log_w = result.log_w.reshape(CLASSES, PARTICLES)
    return {**judged(x, log_w, reward, judge), "evaluations": vars(result.evaluations)}


def judged(x: Tensor, log_w: Tensor, reward: torch.nn.Module, judge: Classifier) -> dict:
    """Metrics of samples (classes, particles, ...) by reward and judge, plain and weighted."""
    classes = torch.arange(len(x))
    images = from_signed(x)
    plain = ClassAgreement(judge)
    weighted = ClassAgreement(judge)
    plain.update(images, classes)
    weighted.update(images, classes, log_w=log_w)
    diversity = PairwiseDiversity(judge.features)
    diversity.update(images)
    with torch.no_grad():
        rewards = reward(x.flatten(0, 1), classes.repeat_interleave(x.shape[1]))
    return {
        "reward": float(rewards.mean()),
        "accuracy": float(plain.compute().mean),
        "accuracy_weighted": float(weighted.compute().mean),
        "diversity": float(diversity.compute()),
    }


def over_seeds(cells: list[dict], name: str) -> tuple[float, float]:
    """Mean and standard error of a metric over the seeds."""
    values = torch.tensor([cell[name] for cell in cells], dtype=torch.float64)
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def spent(cell: dict) -> float:
    """Network forward-equivalents per returned sample."""
    return cell["evaluations"]["network_forward"] + 2 * cell["evaluations"]["network_backward"]


def draw(rows: dict[str, list[list[dict]]]) -> None:
    """Draws reward, accuracy and diversity against evaluations, with standard errors over seeds."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "reward": "reward (log p), unweighted",
        "accuracy": "judge's accuracy, unweighted",
        "accuracy_weighted": "judge's accuracy, by the weights",
        "diversity": "diversity (1 - cosine)",
    }
    for ax, (name, title) in zip(figure.subplots(1, 4), titles.items(), strict=True):
        for method, cells in rows.items():
            x = [sum(map(spent, seeds)) / len(seeds) for seeds in cells]
            y, error = zip(*(over_seeds(seeds, name) for seeds in cells), strict=True)
            ax.errorbar(x, y, error, marker="o", markersize=4, capsize=3, label=method)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("forward-equivalents per sample")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(FOLDER / "fashion_steering.png", dpi=150)


def rows_from(cells: Mapping[str, Any]) -> dict[str, list[list[dict]]]:
    """By method and budget, the cells of all seeds."""

    def seeds(start: str) -> list[dict]:
        found = [cell for key, cell in cells.items() if key.startswith(f"{start} seed=")]
        return found or [cells[f"{start} seed=0"]]

    return {name: [seeds(f"{name} {b}") for b in BUDGETS] for name in METHODS}


def results(cells: Mapping[str, Any]) -> str:
    """A row for each method and budget."""
    rows = []
    for name, row in rows_from(cells).items():
        for seeds in row:
            figures = [
                over_seeds(seeds, f)
                for f in ("reward", "accuracy", "accuracy_weighted", "diversity")
            ]
            rows.append(
                [name, f"{spent(seeds[0]):.0f}", *(within(mean, error) for mean, error in figures)]
            )
    count = len(next(iter(rows_from(cells).values()))[0])
    return f"{count} seeds.\n\n" + table(
        [
            "method",
            "forward-equivalents",
            "reward",
            "judge, unweighted",
            "judge, by the weights",
            "diversity",
        ],
        rows,
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """Accuracy and diversity at the largest budget."""
    name = "FMTT, map look-ahead"
    mean, error = over_seeds(rows_from(cells)[name][-1], "accuracy_weighted")
    claim = f"Steered to a class at {BUDGETS[-1]} evaluations, the judge agrees"
    return [Finding(claim, "at least .95, by the weights", within(mean, error), mean >= 0.95)]


def main(seeds: int = SEEDS) -> None:
    kept = Cells("fashion_steering", WEIGHTS)
    for name, method in METHODS.items():
        for b in BUDGETS:
            for s in range(seeds):
                kept.get(f"{name} {b} seed={s}", partial(measure, method, b, s))
    kept.prune()
    print(results(kept.cells))
    draw(rows_from(kept.cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else SEEDS)
