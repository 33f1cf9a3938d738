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
Record = dict[str, Any]
OWN = ("file", "prompt", "index", "seed")  # what the plain index says of a picture
WIDTH = 5  # digits of a number in a name


def write(
    gallery: Gallery,
    result: Result,
    records: Sequence[Record],
    seed: int,
    layout: Layout,
    prompts: range,
) -> None:
    """Writes N pictures of each prompt, drawn by their weights, to be used without them.

    "plain": samples/<prompt>/<k>.png, see `write_index`. "geneval":
    samples/<prompt>/samples/<k>.png
    and, beside it, a metadata.jsonl of the prompt as its file had it, which GenEval's evaluation
    reads. Files that are there are replaced.

    Args:
        gallery: of the run, which knows the run folder and how to decode.
        result: the samples of these prompts.
        records: of all prompts, see `records_of`.
        seed: of the run.
        layout: which of these.
        prompts: their numbers.
    """
    generator = keyed_generator("image folders", seed)
    x = result.resampled(result.x.shape[1], generator, prompt_keys=prompts)
    for k, of_prompt in zip(prompts, x, strict=True):
        place = place_of(gallery.folder, k)
        inside = place / "samples" if layout == "geneval" else place
        inside.mkdir(parents=True, exist_ok=True)
        for n, picture in enumerate(gallery.images(of_prompt)):
            save(picture, inside / name_of(n))
        if layout == "geneval":
            text = f"{json.dumps(records[k])}\n"
            (place / "metadata.jsonl").write_text(text, encoding="utf-8")


def write_index(folder: Path, records: Sequence[Record], particles: int, seed: int) -> None:
    """Writes samples/metadata.jsonl of the plain layout.

    A line for each picture, with its file, prompt, columns and seed.
    """
    lines = [
        {
            "file": (place_of(folder, k) / name_of(n)).relative_to(folder).as_posix(),
            **record,
            "index": n,
            "seed": seed,
        }
        for k, record in enumerate(records)
        for n in range(particles)
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "samples" / "metadata.jsonl").write_text(text, encoding="utf-8")


def place_of(folder: Path, prompt: int) -> Path:
    """The folder of a prompt's pictures in a run folder."""
    return folder / "samples" / f"{prompt:0{WIDTH}}"


def name_of(picture: int) -> str:
    """The file name of a picture."""
    return f"{picture:0{WIDTH}}.png"


def refuse_points(shape: Sequence[int], layout: Layout) -> None:
    """Raises ValueError for samples that are no pictures."""
    if len(shape) != 3:
        raise ValueError(
            f"images={layout}: samples of shape {tuple(shape)} are no pictures; leave images out"
        )


def refuse_columns(prompts: Prompts, layout: Layout) -> None:
    """Raises ValueError for a column that is called as what the index says of each picture."""
    columns = prompts.cond.fields if isinstance(prompts.cond, Condition) else {}
    taken = [name for name in OWN if name in columns]
    if layout == "plain" and taken:
        raise ValueError(
            f"images=plain: samples/metadata.jsonl has a {taken[0]!r} of its own for each picture;"
            f" rename the column {taken[0]!r} in the file of prompts"
        )


def save(picture: Tensor, path: Path) -> None:
    """Writes a picture (c, h, w) in [0, 1], of one channel or three, with 8 bits."""
    pixels = (picture.float() * 255).round().byte().permute(1, 2, 0).cpu()
    Image.fromarray(pixels.squeeze(-1).numpy()).save(path)


def records_of(prompts: Prompts) -> list[Record]:
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
