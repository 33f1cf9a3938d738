"""Samples as folders of pictures, as evaluators of text-to-image models read them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from recipes.reporting.figures import Gallery
from recipes.setup.prompts import Prompts
from steer.conditions import Condition
from steer.data.stream import keyed_generator
from steer.samplers import Result

Layout = Literal["plain", "geneval"]
WIDTH = 5  # digits of a number in a name


def write(gallery: Gallery, result: Result, prompts: Prompts, seed: int, layout: Layout) -> Path:
    """Writes N pictures of each prompt, drawn by their weights, to be used without them.

    "plain": samples/<prompt>/<k>.png and one metadata.jsonl, a line for each picture with its file,
    prompt, columns and seed. "geneval": samples/<prompt>/samples/<k>.png and, beside it, a
    metadata.jsonl of the prompt as its file had it, which GenEval's evaluation reads.

    Args:
        gallery: of the run, which knows the run folder and how to decode.
        result: the samples.
        prompts: their prompts.
        seed: of the run, noted with each picture.
        layout: which of these.

    Returns:
        The folder `samples`.
    """
    particles = result.x.shape[1]
    x = result.resampled(particles, keyed_generator("image folders", seed))
    folder = gallery.folder / "samples"
    lines = []
    for k, record in enumerate(records_of(prompts)):
        place = folder / f"{k:0{WIDTH}}"
        inside = place / "samples" if layout == "geneval" else place
        inside.mkdir(parents=True)
        for n, picture in enumerate(gallery.images(x[k])):
            path = inside / f"{n:0{WIDTH}}.png"
            save(picture, path)
            file = path.relative_to(gallery.folder).as_posix()
            lines.append({"file": file, **record, "index": n, "seed": seed})
        if layout == "geneval":
            (place / "metadata.jsonl").write_text(f"{json.dumps(record)}\n", encoding="utf-8")
    if layout == "plain":
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def refuse_points(shape: Sequence[int], layout: Layout) -> None:
    """Raises ValueError for samples that are no pictures."""
    if len(shape) != 3:
        raise ValueError(
            f"images={layout}: samples of shape {tuple(shape)} are no pictures; leave images out"
        )


def save(picture: Tensor, path: Path) -> None:
    """Writes a picture (c, h, w) in [0, 1], of one channel or three, with 8 bits."""
    pixels = (picture.float() * 255).round().byte().permute(1, 2, 0).cpu()
    Image.fromarray(pixels.squeeze(-1).numpy()).save(path)


def records_of(prompts: Prompts) -> list[dict[str, Any]]:
    """The prompt and the columns of each, as they stood in the file."""
    columns: Mapping[str, Any] = {}
    if isinstance(prompts.cond, Condition):
        columns = {name: value for name, value in prompts.cond.fields.items() if name != "texts"}
    return [
        {**{name: entry(value, k) for name, value in columns.items()}, "prompt": title}
        for k, title in enumerate(prompts.titles)
    ]


def entry(values: Any, k: int) -> Any:
    """One entry of a column: a number, a text, or what a text of JSON says."""
    if isinstance(values, Tensor):
        return values[k].tolist()
    text = values[k]
    return json.loads(text) if is_json(text) else text


def is_json(text: str) -> bool:
    """Whether a text is a list or an object in JSON."""
    if not text.startswith(("[", "{")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
