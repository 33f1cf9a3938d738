"""A flow map of the checkerboard by the command: a velocity, then jumps distilled from many legs.

    python -m recipes.experiments.checkerboard_distill      # half an hour on one core

KL(data || samples) of 50 000 samples on 32 x 32 cells that fit the board's squares, against a
million draws; one seed.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.cli import main as steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table

RUNS = Path("runs/figures/checkerboard")
JUMPS = ("1_jump", "2_jumps", "4_jumps", "8_jumps", "16_jumps")
ODE = "64-step_ode"
FLOOR = "floor"
AIM = 0.10


def run(command: str, config: str, name: str, *words: str) -> Path:
    """The folder of a run, which is not repeated if it has ended."""
    folder = RUNS / name
    if not (folder / "metrics.json").exists():
        resume = (
            ["run.resume=true"] if (folder / "config.yaml").exists() and command == "train" else []
        )
        if steer([command, config, f"run.dir={folder}", "--quiet", *words, *resume]) != 0:
            raise SystemExit(f"{config} did not end; see above")
    return folder


def measure() -> dict[str, float]:
    """KL of each sampler."""
    velocity = run("train", "checkerboard/velocity", "velocity")
    start = (f"start={velocity}", f"teacher={velocity}")
    distilled = run("train", "checkerboard/distill", "distill", *start)
    folder = run("evaluate", "checkerboard/evaluate", "evaluate", f"model={distilled}")
    shutil.copy(folder / "grid.png", FOLDER / "checkerboard_distill.png")
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        name: figures["grid_kl"]
        for name, figures in {**metrics["samplers"], FLOOR: metrics["floor"]}.items()
    }


def results(cells: Mapping[str, Any]) -> str:
    """KL by number of jumps."""
    kl = cells["kl"]
    heads = [*(name.replace("_", " ") for name in JUMPS), "64-step ODE", "the law's own samples"]
    return table(heads, [[short(kl[name]) for name in (*JUMPS, ODE, FLOOR)]])


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """KL at every number of jumps."""
    worst = max(cells["kl"][name] for name in JUMPS)
    claim = "A map of the checkerboard at 1 to 16 jumps"
    return [
        Finding(
            claim,
            f"KL below {short(AIM, 2)} at every number",
            f"at most {short(worst)}",
            worst < AIM,
        )
    ]


def main() -> None:
    kept = Cells("checkerboard_distill")
    kept.get("kl", measure)
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
