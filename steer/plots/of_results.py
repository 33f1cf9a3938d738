"""What is drawn of a sampler's result: some of its particles, in proportion to their weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steer.data.stream import keyed_generator
from steer.plots.filmstrip import filmstrip
from steer.plots.image_grid import grid
from steer.plots.point_clouds import plane

COLUMNS = 8  # images of a row
POINTS = 4096  # drawn at most

Decode = Callable[[Tensor], Tensor]


def representatives(result: Any, columns: int = COLUMNS, rows: int = 4) -> Tensor:
    """Draw particles of each prompt by their weights, (P, n, *shape), to fill a picture."""
    n = columns if len(result.x) > 1 else columns * rows
    return result.resampled(min(n, result.x.shape[1]), keyed_generator("representatives"))


def cloud(result: Any) -> tuple[Tensor, Tensor]:
    """The points of all prompts (M, 2) and their weights (M,); above POINTS, a weighted subset."""
    x = result.x
    w = result.log_w.softmax(1)
    if x.shape[1] > POINTS:
        x = result.resampled(POINTS, keyed_generator("representatives"))
        w = torch.full(x.shape[:2], 1 / POINTS, dtype=w.dtype)
    return x.flatten(0, 1).cpu(), w.flatten().cpu()


def decoded(x: Tensor, decode: Decode | None) -> Tensor:
    """Decode samples (p, n, *shape) to images (p, n, C, H, W) in [0, 1].

    Raises:
        ValueError: samples that are no images, without a decoder.
    """
    if decode is None and not (x.ndim == 5 and x.shape[2] in (1, 3)):
        raise ValueError(
            f"samples of shape {tuple(x.shape[2:])} are no images (1 or 3 channels, H, W); pass"
            " decode=, a function from (b, *shape) to images in [0, 1]"
        )
    with torch.no_grad():
        images = (
            (x + 1) / 2 if decode is None else decode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        )
    return images.clamp(0, 1).float().cpu()


def image_of(draw: Callable[..., None], *arguments: Any) -> Image.Image:
    """Draw a picture in memory."""
    file = BytesIO()
    draw(file, *arguments)
    file.seek(0)
    image = Image.open(file)
    image.load()
    return image


def grid_of(
    result: Any, decode: Decode | None, titles: Sequence[str], columns: int = COLUMNS
) -> Image.Image:
    """Draw images, a row for each prompt, or points of the plane, a panel for each title.

    Raises:
        ValueError: another number of titles than of prompts.
    """
    if titles and len(titles) != len(result.x):
        raise ValueError(f"titles has one for each of {len(result.x)} prompts; got {len(titles)}")
    title = result.claim or "samples"
    if result.x.shape[2:] == (2,):
        x, log_w = result.x, result.log_w
        each = [replace(result, x=x[[k]], log_w=log_w[[k]]) for k in range(len(titles))]
        named = zip(titles or [title], each or [result], strict=True)
        return image_of(plane, [(name, *cloud(of)) for name, of in named])
    images = decoded(representatives(result, columns), decode)
    return image_of(grid, [(title, images)], titles, columns)


def filmstrip_of(result: Any, decode: Decode | None, titles: Sequence[str]) -> Image.Image:
    """Draw what a look-ahead saw, from the trace of a sampler that was asked for it.

    Raises:
        ValueError: a trace without a film.
    """
    if "film" not in result.trace:
        raise ValueError("the trace has no film; ask for one, as in TrajectoryTilting(..., film=1)")
    film = result.trace["film"]
    if result.x.shape[2:] != (2,):
        film = decoded(film.flatten(0, 1), decode).unflatten(0, film.shape[:2])
    return image_of(filmstrip, film.cpu(), result.trace["film_t"], titles)
