"""Drawing of scenes: each shape is drawn large once, shrunk, and laid over the background.

A drawn object is linear in its colour (see `shapes`): it is a coverage (its share of each pixel), a
tone that multiplies its colour, and a tint that does not depend on it, all premultiplied. The
`sprites` hold the three for every shape, size and quarter of a pixel, so that a picture takes a
fraction of a millisecond, and the reader compares pictures with the very same drawings.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from steer.data.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    SIDE,
    SIZES,
    STEPS,
    Background,
    Item,
    Scene,
)
from steer.data.scenes.shapes import SHAPES, Detail, Polygon, Shape

__all__ = ["render"]

FINE = 8  # fine pixels in a pixel
WIDTH = 18  # pixels along a side of a sprite
EDGE_TONE = 0.60
EDGE_SHADE = 0.80
TOP_TONE, BOTTOM_TONE = 1.06, 0.86
SHEEN = 0.42
MARGIN = 4  # pixels by which a sprite may reach over the edge of a picture
CHUNK = 512

SHAPE_INDEX = {name: k for k, name in enumerate(SHAPES)}
SIZE_INDEX = {name: k for k, name in enumerate(SIZES)}
PAINT = {name: np.array(rgb, np.float32) for name, rgb in COLOURS.items()}


class Sprites(NamedTuple):
    """Drawings of all shapes, indexed [shape, size, 4 y, 4 x], with their centre in the middle.

    Attributes:
        coverage, tone: (shapes, sizes, 4, 4, WIDTH, WIDTH).
        tint: (shapes, sizes, 4, 4, WIDTH, WIDTH, 3).
    """

    coverage: np.ndarray
    tone: np.ndarray
    tint: np.ndarray


@functools.cache
def sprites() -> Sprites:
    """Draw every shape at every size and quarter of a pixel."""
    layers = [[shrunk(*large(shape, size)) for size in SIZES.values()] for shape in SHAPES.values()]
    found = np.array(layers, dtype=np.float32)
    return Sprites(found[..., 0], found[..., 1], found[..., 2:])


def large(shape: Shape, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a shape in fine pixels: coverage (n, n), tone (n, n) and tint (n, n, 3)."""
    n = round(size * FINE)
    body = mask(shape.body, n) & ~mask(shape.holes, n)
    white = np.where(body, sheen(n), 0.0)
    coverage = body.copy()
    tone = np.where(body, np.linspace(TOP_TONE, BOTTOM_TONE, n)[:, None] - white, 0.0)
    tint = white[..., None] * np.ones(3)
    rim = edge(body, shape.edge)
    tone[rim] = EDGE_TONE
    tint[rim] = 0.0
    for detail in shape.under:
        paint(detail, n, coverage, tone, tint, where=~body)
    for detail in shape.over:
        paint(detail, n, coverage, tone, tint, where=np.ones_like(body))
    rim = edge(coverage, shape.edge) & (tint.max(-1) > 0)
    tone[rim] *= EDGE_SHADE
    tint[rim] *= EDGE_SHADE
    return coverage, tone, tint


def mask(polygons: Sequence[Polygon], n: int) -> np.ndarray:
    """Fill the union of polygons in the unit square, as n x n booleans."""
    image = Image.new("1", (n, n))
    pen = ImageDraw.Draw(image)
    for polygon in polygons:
        pen.polygon([(x * n - 0.5, y * n - 0.5) for x, y in polygon], fill=1)
    return np.array(image)


def edge(body: np.ndarray, width: float) -> np.ndarray:
    """Find the spots of a silhouette that lie within so many pixels of its outside."""
    inside = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]
    return body & (inside < width * FINE)


def sheen(n: int) -> np.ndarray:
    """The share of white in a soft highlight at the upper left."""
    spot = (np.arange(n) + 0.5) / n
    far = (spot[None, :] - 0.33) ** 2 + (spot[:, None] - 0.30) ** 2
    return SHEEN * np.exp(-far / (2 * 0.12**2))


def paint(
    detail: Detail,
    n: int,
    coverage: np.ndarray,
    tone: np.ndarray,
    tint: np.ndarray,
    where: np.ndarray,
) -> None:
    """Paint a detail into the arrays of a drawing."""
    spots = mask([detail.polygon], n) & where
    coverage |= spots
    tone[spots] = detail.tone
    tint[spots] = detail.tint


def shrunk(coverage: np.ndarray, tone: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Shrink a drawing to pixels at each of 4 x 4 offsets: (4, 4, WIDTH, WIDTH, 5)."""
    layers = [coverage, tone, *np.moveaxis(tint, -1, 0)]
    offsets = [k * FINE // STEPS for k in range(STEPS)]
    return np.stack(
        [
            np.stack([np.stack([at(layer, dy, dx) for layer in layers], -1) for dx in offsets])
            for dy in offsets
        ]
    )


def at(layer: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Shrink one layer whose centre lies (dy, dx) fine pixels from that of the sprite."""
    n = len(layer)
    start = WIDTH * FINE // 2 - n // 2
    canvas = np.zeros((WIDTH * FINE, WIDTH * FINE), np.float32)
    canvas[start + dy : start + dy + n, start + dx : start + dx + n] = layer
    small = Image.fromarray(canvas).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    return np.array(small).clip(0, 1)


def render(scenes: Sequence[Scene]) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Draw scenes as RGB bytes."""
    chunks = [paint_all(scenes[k : k + CHUNK]) for k in range(0, len(scenes), CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def paint_all(scenes: Sequence[Scene]) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Draw a chunk of scenes."""
    grounds = backgrounds([scene.background for scene in scenes])
    canvas = np.pad(grounds, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    for picture, scene in zip(canvas, scenes, strict=True):
        for item in scene.items:
            put(item, picture)
    inside = canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return (inside * 255).round().clip(0, 255).astype(np.uint8)


def backgrounds(grounds: Sequence[Background]) -> Float[np.ndarray, "n 32 32 3"]:
    """Draw backgrounds in [0, 1]."""
    first, second = (
        np.array([BACKGROUNDS[name] for name in names], np.float32)[:, None, None]
        for names in ([g.first for g in grounds], [g.second for g in grounds])
    )
    angle = np.radians([g.angle for g in grounds])[:, None, None]
    spot = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    along = np.cos(angle) * spot[None, None, :] + np.sin(angle) * spot[None, :, None]
    share = along / (np.abs(np.cos(angle)) + np.abs(np.sin(angle))) + 0.5
    return first + share[..., None].astype(np.float32) * (second - first)


def put(item: Item, canvas: Float[np.ndarray, "h w 3"]) -> None:
    """Lay an object over a picture that has a margin, in place."""
    drawn = sprites()
    at = (
        SHAPE_INDEX[item.shape],
        SIZE_INDEX[item.size],
        round(item.y % 1 * STEPS),
        round(item.x % 1 * STEPS),
    )
    top, left = (math.floor(spot) - WIDTH // 2 + MARGIN for spot in (item.y, item.x))
    there = canvas[top : top + WIDTH, left : left + WIDTH]
    there *= 1 - drawn.coverage[at][..., None]
    there += drawn.tone[at][..., None] * PAINT[item.colour] + drawn.tint[at]
