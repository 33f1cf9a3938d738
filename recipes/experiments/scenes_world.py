"""The captioned scenes: a sheet of them, and how often their reader is right.

    python -m recipes.experiments.scenes_world          # draws docs/figures/scenes.png
    python -m recipes.experiments.scenes_world 1000     # and reads so many scenes, a minute or two

The scenes are read as drawn, and under the blur (0.6 pixels) and noise (0.05) of model samples. A
scene is right if all of its objects are read with their shape and colour and no other is, and if
the caption is judged true; the shapes taken for others are listed.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from recipes.experiments.cells import FOLDER
from recipes.experiments.findings import short, table
from steer.data.scenes import (
    TASKS,
    CaptionedScene,
    Reading,
    draw_scenes,
    parse,
    read,
    render,
    shown,
)
from steer.data.scenes.templates import blurred

BLUR = 0.6
NOISE = 0.05
ROWS, COLUMNS = 4, 6


def pictures_of(scenes: Sequence[CaptionedScene]) -> Tensor:
    """Draw scenes in [0, 1], (n, 3, 32, 32)."""
    return torch.from_numpy(render([each.scene for each in scenes])).permute(0, 3, 1, 2) / 255


def sampled(pictures: Tensor) -> Tensor:
    """Blur pictures and add noise, as samples of a model are."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (blurred(pictures, BLUR) + NOISE * noise).clamp(0, 1)


def kinds(each: CaptionedScene | Reading) -> Counter[tuple[str, str]]:
    """Count the objects of each shape and colour."""
    items = each.items if isinstance(each, Reading) else each.scene.items
    return Counter((item.shape, item.colour) for item in items)


def measure(count: int) -> None:
    """Print how often the reader is right."""
    scenes = draw_scenes("all", count, seed=1)
    clean = pictures_of(scenes)
    rows = []
    for name, pictures in (("as drawn", clean), ("blur and noise", sampled(clean))):
        readings = read(pictures)
        found = [kinds(reading) for reading in readings]
        truth = [kinds(scene) for scene in scenes]
        said = [
            shown(reading, parse(each.caption))
            for reading, each in zip(readings, scenes, strict=True)
        ]
        right = sum(a == b for a, b in zip(found, truth, strict=True)) / count
        rows.append([name, short(right, 4), *(share_of(said, task) for task in TASKS)])
        for a, b in zip(truth, found, strict=True):
            if a != b:
                print(
                    f"{name}: {', '.join(map(' '.join, a - b))} read as {list(b - a) or 'nothing'}"
                )
    print(table(["pictures", "objects", *TASKS], rows))


def share_of(said: Sequence[Mapping[str, bool | None]], task: str) -> str:
    """The share of right answers among those to which a task applies."""
    values = [each[task] for each in said if each[task] is not None]
    return short(sum(map(bool, values)) / max(len(values), 1), 4)


def draw(path: Path = FOLDER / "scenes.png") -> None:
    """Draw a sheet of training scenes under their captions."""
    scenes = draw_scenes("train", ROWS * COLUMNS, seed=3)
    figure = Figure(figsize=(2.0 * COLUMNS, 2.6 * ROWS), layout="constrained", dpi=72)
    axes = figure.subplots(ROWS, COLUMNS).flat
    for axis, picture, each in zip(axes, pictures_of(scenes), scenes, strict=True):
        axis.imshow(picture.permute(1, 2, 0), interpolation="nearest")
        axis.set_title(wrapped(each.caption), fontsize=9)
        axis.axis("off")
    figure.savefig(path)


def wrapped(caption: str, width: int = 26) -> str:
    """Break a caption into lines of about this many characters."""
    lines = [""]
    for word in caption.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def main() -> None:
    """Draw the sheet, and measure the reader if a number of scenes is given."""
    draw()
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))


if __name__ == "__main__":
    main()
