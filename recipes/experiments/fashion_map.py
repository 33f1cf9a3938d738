"""Sample quality of the shipped Fashion-MNIST map, with and without its condition.

    python -m recipes.experiments.fashion_map          # 90 minutes on one core, resumable
    python -m recipes.experiments.fashion_map 200      # on so many samples of each class

1 to 8 jumps and the ODE: Frechet distance in the features of the judge, `fashion-patch`, to the
10 000 test images, and how often the judge assigns the class asked for. With the condition: as many
samples of each class. Without: the null condition, as steering and tuning run the map.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import steer
from recipes.evaluation.reference import ImageReference
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from rewards import from_signed, load_classifier
from steer import plots as pictures
from steer.data import fashion_mnist
from steer.data.fashion import CLASSES
from steer.guidance import Unconditional
from steer.samplers import Jump, Ode, Sampler

EACH = 1000
JUDGE_BY = "fashion-patch"
SHOWN = 8
WEIGHTS = ("fashion", JUDGE_BY)
TOLD = "told the class"
UNTOLD = "not told"
JUMPS = (1, 2, 4, 8)
FEW = (1, 2, 4)
ODE = "64-step ODE"
FLOOR = "training images"


def sampler_of(name: str) -> Sampler:
    """The sampler of a row."""
    return Ode(64, max_batch=500) if name == ODE else Jump(int(name.split()[0]), max_batch=500)


def rows_of() -> list[str]:
    """The samplers by name."""
    return [*(f"{k} jump{'s' if k > 1 else ''}" for k in JUMPS), ODE]


def drawn(whose: str, name: str, each: int) -> Tensor:
    """Samples (classes, each, 1, 28, 28) in [0, 1], all from the same noise."""
    flow_map = steer.load("fashion")
    x0 = torch.randn(10, each, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = Unconditional(flow_map) if whose == UNTOLD else flow_map
    return from_signed(
        sampler_of(name)(model, x0, None, torch.arange(10), torch.Generator().manual_seed(0)).x
    )


def reference() -> ImageReference:
    """Distances to the test images in the judge's features."""
    return ImageReference(load_classifier(JUDGE_BY), fashion_mnist("test"), fashion_mnist("train"))


def measure(whose: str, name: str, each: int) -> dict[str, float]:
    """One cell."""
    with torch.no_grad():
        return reference()(drawn(whose, name, each), torch.arange(10) if whose == TOLD else None)


def draw() -> None:
    """Draws a panel for each number of jumps, with the condition and without."""
    for whose, file in ((TOLD, "fashion_map.png"), (UNTOLD, "fashion_map_untold.png")):
        panels = [(name, drawn(whose, name, SHOWN).clamp(0, 1)) for name in rows_of()]
        pictures.grid(FOLDER / file, panels, CLASSES if whose == TOLD else (), 4)


def results(cells: Mapping[str, Any]) -> str:
    """Distances with and without the condition, and their ratios."""
    rows = []
    for name in rows_of():
        told = cells[f"{TOLD}, {name}"]
        untold = cells.get(f"{UNTOLD}, {name}")
        far = told["frechet_distance"]
        over = far / cells[f"{TOLD}, {ODE}"]["frechet_distance"]
        judge = within(told["judge_accuracy"], told["judge_accuracy_std_error"])
        blind = ["", ""]
        if untold is not None:
            blind = [
                short(untold["frechet_distance"], 4),
                f"{untold['frechet_distance'] / far:.2f}",
            ]
        rows.append([name, short(far, 4), f"{over:.2f}", judge, *blind])
    floor = cells[FLOOR]
    judge = (
        within(floor["judge_accuracy"], floor["judge_accuracy_std_error"]) + " (of the test images)"
    )
    rows.append([f"as many {FLOOR}", short(floor["frechet_distance"], 4), "", judge, "", ""])
    heads = [
        "",
        "told: distance",
        "over the ODE",
        "judge's accuracy",
        "not told: distance",
        "over told",
    ]
    return f"{10 * cells['each']:,} samples in each row.\n\n" + table(heads, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """Few jumps against the ODE, and no condition against the condition."""

    def far(whose: str, name: str) -> float:
        return cells[f"{whose}, {name}"]["frechet_distance"]

    one, four = (far(TOLD, name) / far(TOLD, ODE) for name in ("1 jump", "4 jumps"))
    names = [name for k, name in zip(JUMPS, rows_of(), strict=False) if k in FEW]
    known = all(f"{UNTOLD}, {name}" in cells for name in names)
    ratios = [far(UNTOLD, name) / far(TOLD, name) for name in names] if known else []
    blind = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [
        Finding(
            "One jump of the shipped map is near to its ODE",
            "1.5 times its distance",
            f"{one:.2f} times",
            one <= 1.5,
        ),
        Finding(
            "Four jumps of it are too", "1.1 times its distance", f"{four:.2f} times", four <= 1.1
        ),
        Finding(
            "Not told the class it is as good, at 1, 2 and 4 jumps",
            "1.5 times the distance",
            blind,
            max(ratios) <= 1.5 if known else None,
        ),
    ]


def main(each: int = EACH) -> None:
    kept = Cells("fashion_map", WEIGHTS)
    if kept.cells.get("each") != each:
        kept.forget(list(kept.cells))
    kept.get("each", lambda: each)
    kept.get(FLOOR, lambda: reference().floor(10 * each))
    for name in rows_of():
        for whose in (TOLD, UNTOLD):
            kept.get(f"{whose}, {name}", partial(measure, whose, name, each))
    kept.prune()
    print(results(kept.cells))
    draw()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else EACH)
