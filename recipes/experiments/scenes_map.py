"""How well the shipped maps of captioned scenes follow their captions, by tasks and by steps.

    python -m recipes.experiments.scenes_map      # a quarter of an hour on one core, resumable

1 to 8 jumps and the ODE, one sample for each of 400 captions that name a combination held out of
training, and four jumps on as many captions of training; then the map without guidance, from which
the other was distilled, with and without classifier-free guidance. The reader of scenes says which
tasks a sample fulfils. Frechet distances are in the features of the CLIP that judges, to 2000
held-out pictures; without captions to as many of training.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from rewards import from_signed, load_clip
from steer import plots as pictures
from steer.data.scenes import TASKS, captioned_scenes, read, scene_captions, score
from steer.flow_map import Cond, FlowMap
from steer.guidance import ClassifierFree
from steer.metrics import FrechetDistance
from steer.samplers import Jump, Ode, Sampler

MAP, PLAIN, JUDGE_BY = "scenes", "scenes-plain", "scenes-clip-judge"
WEIGHTS = (MAP, PLAIN, JUDGE_BY)
COUNT = 400
REAL = 2000
SEED = 21  # of captions
SHAPE = (3, 32, 32)
JUMPS = (1, 2, 4, 8)
ODE = "64-step ODE"
ROWS = (*(f"{k} jump{'s' if k > 1 else ''}" for k in JUMPS), ODE)
GUIDANCE = 3.0  # that of the distillation
GUIDED = f"{PLAIN}, guided by {GUIDANCE:g}, {ODE}"
PLAIN_ROWS = (f"{PLAIN}, {ODE}", GUIDED, f"{PLAIN}, 4 jumps")
KNOWN, UNTOLD, FLOOR = "4 jumps, captions of training", "4 jumps, no caption", "real pictures"
SHOWN = (
    "a red heart",
    "two yellow stars",
    "a green fish left of a pink key",
    "a purple mushroom above an orange house",
    "three blue moons",
    "a brown boat below two red apples",
)
COLUMNS = 4


def sampler_of(row: str) -> Sampler:
    """The sampler of a row."""
    how = row.split(", ")[-1]
    return Ode(64, max_batch=100) if how == ODE else Jump(int(how.split()[0]), max_batch=100)


def map_of(row: str) -> FlowMap:
    """The map of a row."""
    if row not in PLAIN_ROWS:
        return steer.load(MAP)
    plain = steer.load(PLAIN)
    return ClassifierFree(plain, GUIDANCE) if row == GUIDED else plain


def drawn(row: str, cond: Cond, prompts: int, particles: int = 1) -> Tensor:
    """Samples (prompts, particles, 3, 32, 32) in [0, 1], in all rows from the same noise."""
    x0 = torch.randn(prompts, particles, *SHAPE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    x = sampler_of(row)(map_of(row), x0, None, cond, generator).x
    return from_signed(x).clamp(0, 1)


@cache
def real(split: str, count: int, seed: int) -> Tensor:
    """Pictures of scenes in [0, 1]."""
    return captioned_scenes(split, count, seed)[0] / 255


def distance(images: Tensor, split: str) -> float:
    """The Frechet distance to REAL pictures of a split, in the judge's features."""
    judge = load_clip(JUDGE_BY)
    metric = FrechetDistance(judge.features, judge.width)
    metric.update(real(split, REAL, SEED), real=True)
    metric.update(images, real=False)
    return float(metric.compute())


def tasks(images: Tensor, captions: list[str]) -> dict[str, list[float]]:
    """The share of samples that fulfil each task, its standard error, and of how many."""
    found = {}
    for task, values in score(images, captions).items():
        values = values[~values.isnan()].double()
        share = float(values.mean())
        found[task] = [share, (share * (1 - share) / len(values)) ** 0.5, float(len(values))]
    return found


def measure(row: str, split: str = "heldout") -> dict[str, Any]:
    """The figures of a row, told its captions."""
    captions = scene_captions(split, COUNT, SEED)
    images = drawn(row, captions, COUNT)[:, 0]
    return {"tasks": tasks(images, captions), "frechet": distance(images, split)}


def untold() -> dict[str, float]:
    """Without captions: the distance to pictures of training, and how many objects are read."""
    images = drawn("4 jumps", None, 1, COUNT)[0]
    counts = [len(reading.items) for reading in read(images)]
    return {
        "frechet": distance(images, "train"),
        "objects": sum(counts) / COUNT,
        "scenes": sum(1 <= n <= 3 for n in counts) / COUNT,
    }


def floor() -> dict[str, Any]:
    """The same figures of as many real held-out pictures with captions of their own."""
    images, captions = captioned_scenes("heldout", COUNT, SEED + 1)
    seen = images / 255
    return {
        "tasks": tasks(seen, captions),
        "frechet": distance(seen, "heldout"),
        "train": distance(real("train", COUNT, SEED + 1), "train"),
    }


def draw() -> None:
    """Draws a panel for each of three samplers, a row for each caption."""
    panels = [
        (row, drawn(row, list(SHOWN), len(SHOWN), COLUMNS)) for row in ("1 jump", "4 jumps", ODE)
    ]
    pictures.grid(FOLDER / "scenes_map.png", panels, SHOWN, COLUMNS)


def results(cells: Mapping[str, Any]) -> str:
    """Tasks and distances of each row."""
    rows = []
    for name in (*ROWS, KNOWN, *PLAIN_ROWS, FLOOR):
        cell = cells[name]
        found = [cell["tasks"][task] for task in TASKS]
        shares = [within(share, error, 2) for share, error, _ in found]
        rows.append([name, *shares, short(cell["frechet"])])
    heads = ["", *(task.replace("_", " ") for task in TASKS), "Frechet distance"]
    blind, real_ones = cells[UNTOLD], cells[FLOOR]
    return (
        table(heads, rows)
        + f"\n\nWithout a caption, at 4 jumps: Frechet distance {short(blind['frechet'])} to the"
        f" pictures of training (as many real ones {short(real_ones['train'])}),"
        f" {short(blind['scenes'], 2)} of samples show one to three objects,"
        f" {short(blind['objects'], 2)} on average."
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """Overall accuracy at four jumps, and how near one jump comes."""
    one, four = (cells[row]["tasks"]["overall"][0] for row in ("1 jump", "4 jumps"))
    return [
        Finding(
            "The map of scenes follows held-out captions, imperfectly, at four jumps",
            "reader's overall accuracy of .4 to .8",
            short(four, 2),
            0.4 <= four <= 0.8,
        ),
        Finding(
            "One jump of it follows them as well as four",
            "within .05",
            f"{short(one, 2)} against {short(four, 2)}",
            four - one <= 0.05,
        ),
    ]


def main() -> None:
    kept = Cells("scenes_map", WEIGHTS)
    with torch.no_grad():
        kept.get(FLOOR, floor)
        for row in (*ROWS, *PLAIN_ROWS):
            kept.get(row, partial(measure, row))
        kept.get(KNOWN, partial(measure, "4 jumps", "train"))
        kept.get(UNTOLD, untold)
        draw()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
