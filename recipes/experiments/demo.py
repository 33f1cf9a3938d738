"""The demonstration of `make demo`: the README's commands for steering and for tuning.

python -m recipes.experiments.demo      # a minute or two on one core
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.cli import main as steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from rewards import from_signed, load_classifier
from steer.checkpoint import load as steer_load
from steer.counting import Evaluations
from steer.flow_map import FlowMap
from steer.metrics import ClassAgreement, FrechetDistance, PairwiseDiversity
from steer.samplers import Jump

WEIGHTS = ("fashion", "fashion-patch", "fashion-residual")
TUNE = "tune fashion/tune"
COMMANDS = {"sample fashion/steer": "fashion_steer.png", TUNE: "fashion_tune.png"}
TROUSER = 1
KEPT = ("judge_accuracy", "judge_accuracy_std_error", "diversity")


def measure(words: str) -> dict[str, Any]:
    """Metrics before and after, evaluations and seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        if steer([*words.split(), f"run.dir={folder}", "--quiet"]) != 0:
            raise SystemExit(f"steer {words} did not end; see above")
        metrics = json.loads((folder / "metrics.json").read_text())
        shutil.copy(folder / "grid.png", FOLDER / COMMANDS[words])
        beside = against_told(folder) if words == TUNE else {}
    names = [*KEPT, *(f"base_{name}" for name in KEPT)]
    spent = Evaluations(**metrics["evaluations"]).forward_equivalents()
    return {
        **{name: metrics[name] for name in names},
        "forward_equivalents": spent,
        "seconds": metrics["seconds"],
        **beside,
    }


def against_told(folder: Path) -> dict[str, float]:
    """400 samples of the tuned map in one jump, beside the told map's own of the class.

    The judge's accuracy, and Frechet distance in its features and diversity as factors of what two
    sets of the told map's samples have.
    """
    judge = load_classifier("fashion-patch")
    told, tuned = steer_load("fashion"), steer_load(folder)

    def drawn(flow_map: FlowMap, seed: int, cond: Tensor | None) -> Tensor:
        noise = torch.randn(1, 400, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        x = Jump(1, max_batch=100)(flow_map, noise, None, cond).x
        return from_signed(x).clamp(0, 1)

    def distance(x: Tensor, y: Tensor) -> float:
        metric = FrechetDistance(judge.features, judge.width)
        metric.update(x.flatten(0, 1), real=True)
        metric.update(y.flatten(0, 1), real=False)
        return float(metric.compute())

    def diversity(x: Tensor) -> float:
        metric = PairwiseDiversity(judge.features)
        metric.update(x)
        return float(metric.compute())

    label = torch.tensor([TROUSER])
    one, other = drawn(told, 5, label), drawn(told, 6, label)
    x = drawn(tuned, 7, None)
    accuracy = ClassAgreement(judge)
    accuracy.update(x, label)
    return {
        "accuracy_of_400": float(accuracy.compute().mean),
        "frechet_factor": distance(one, x) / distance(one, other),
        "diversity_factor": diversity(x) / diversity(one),
    }


def results(cells: Mapping[str, Any]) -> str:
    """A row for each command."""
    rows = []
    for words in COMMANDS:
        cell = cells[words]
        before, after = (
            within(cell[f"{when}judge_accuracy"], cell[f"{when}judge_accuracy_std_error"])
            for when in ("base_", "")
        )
        diversity = f"{short(cell['base_diversity'])} to {short(cell['diversity'])}"
        seconds = f"{cell['seconds']:.0f}"
        rows.append(
            [
                f"`steer {words}`",
                before,
                after,
                diversity,
                f"{cell['forward_equivalents']:.0f}",
                seconds,
            ]
        )
    heads = [
        "",
        "judge's accuracy before",
        "after",
        "diversity",
        "forward-equivalents (a sample; in all)",
        "seconds",
    ]
    return table(heads, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The demonstration of tuning against its aims."""
    cell = cells[TUNE]
    accuracy, frechet, diversity = (
        cell[name] for name in ("accuracy_of_400", "frechet_factor", "diversity_factor")
    )
    return [
        Finding(
            "`make demo` tunes the map to trousers: the judge agrees",
            ".95",
            short(accuracy),
            accuracy >= 0.95,
        ),
        Finding(
            "their Frechet distance to the told map's own, over that of two sets of those",
            "at most 5",
            f"{frechet:.2f}",
            frechet <= 5,
        ),
        Finding(
            "their diversity, over that of the told map's own",
            ".6 to 1.3",
            f"{diversity:.2f}",
            0.6 <= diversity <= 1.3,
        ),
    ]


def main() -> None:
    kept = Cells("demo", WEIGHTS)
    for words in COMMANDS:
        kept.get(words, partial(measure, words))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
