"""The shapes of the scenes: outlines in the unit square, y pointing down, with their shading.

A shape is a body in the colour of the object and a few details painted over it. The colour of any
spot is `tone * colour + tint`, so that a drawn object is linear in its colour: a tone below 1 is a
darker shade, a tint lightens, and tone 0 is a fixed colour such as that of a trunk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SHAPES", "Shape"]

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Tint = tuple[float, float, float]

CREAM = (0.99, 0.95, 0.84)
WHITE = (1.0, 1.0, 1.0)
INK = (0.13, 0.12, 0.17)
SLATE = (0.33, 0.28, 0.34)
WOOD = (0.48, 0.31, 0.20)
LEAF = (0.33, 0.62, 0.25)


@dataclass(frozen=True)
class Detail:
    """A polygon painted over the body in `tone * colour + tint`."""

    polygon: Polygon
    tone: float
    tint: Tint = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Shape:
    """A shape by name.

    Attributes:
        name, plural: its words.
        body: polygons whose union is drawn in the colour of the object.
        holes: polygons cut out of the body.
        under: details behind the body, such as a stem.
        over: details on top of it, such as an eye.
        edge: pixels of darker edge.
    """

    name: str
    plural: str
    body: tuple[Polygon, ...]
    holes: tuple[Polygon, ...] = ()
    under: tuple[Detail, ...] = ()
    over: tuple[Detail, ...] = ()
    edge: float = 0.7


# --- outlines -----------------------------------------------------------------------------------
def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0, corners: int = 48
) -> Polygon:
    """Outline an ellipse around (x, y), turned by `turn` degrees."""
    return arc(x, y, rx, ry, 0, 360, turn, corners)


def arc(
    x: float,
    y: float,
    rx: float,
    ry: float | None = None,
    start: float = 0.0,
    end: float = 360.0,
    turn: float = 0.0,
    corners: int = 48,
) -> Polygon:
    """List points of an elliptic arc from `start` to `end` degrees, clockwise as seen."""
    ry = rx if ry is None else ry
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    angles = (math.radians(start + (end - start) * k / corners) for k in range(corners + 1))
    spots = ((rx * math.cos(a), ry * math.sin(a)) for a in angles)
    return tuple((x + cos * u - sin * v, y + sin * u + cos * v) for u, v in spots)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Outline a rectangle."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def rounded(left: float, top: float, right: float, bottom: float, r: float) -> Polygon:
    """Outline a rectangle with round corners of radius r."""
    return (
        *arc(right - r, top + r, r, r, -90, 0, corners=8),
        *arc(right - r, bottom - r, r, r, 0, 90, corners=8),
        *arc(left + r, bottom - r, r, r, 90, 180, corners=8),
        *arc(left + r, top + r, r, r, 180, 270, corners=8),
    )


def rays(x: float, y: float, r: float, points: int, x0: float, y0: float) -> tuple[Point, ...]:
    """List `points` spots around (x0 + x, y0 + y) at distance r, the first one on top."""
    turns = (2 * math.pi * k / points - math.pi / 2 for k in range(points))
    return tuple((x0 + x + r * math.cos(a), y0 + y + r * math.sin(a)) for a in turns)


def star_outline(x: float, y: float, outer: float, inner: float, points: int = 5) -> Polygon:
    """Outline a star with its first point on top."""
    angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
    radii = [outer if k % 2 == 0 else inner for k in range(2 * points)]
    return tuple(
        (x + r * math.cos(a), y + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)
    )


def heart_outline() -> Polygon:
    """Outline a heart that fills the unit square."""
    ts = [2 * math.pi * k / 72 for k in range(72)]
    xs = [16 * math.sin(t) ** 3 for t in ts]
    ys = [
        13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in ts
    ]
    top, bottom = max(ys), min(ys)
    return tuple(
        (0.5 + x / 32, 0.03 + 0.94 * (top - y) / (top - bottom))
        for x, y in zip(xs, ys, strict=True)
    )


def curve(*spots: Point, steps: int = 8) -> Polygon:
    """Outline a closed smooth curve through the spots (Catmull-Rom)."""
    count = len(spots)
    points: list[Point] = []
    for k in range(count):
        p0, p1, p2, p3 = (spots[(k + j) % count] for j in (-1, 0, 1, 2))
        points.extend(_between(p0, p1, p2, p3, i / steps) for i in range(steps))
    return tuple(points)


def _between(p0: Point, p1: Point, p2: Point, p3: Point, u: float) -> Point:
    def along(a: float, b: float, c: float, d: float) -> float:
        return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))

    return along(p0[0], p1[0], p2[0], p3[0]), along(p0[1], p1[1], p2[1], p3[1])


def mirrored(half: Sequence[Point]) -> Polygon:
    """Outline the polygon whose right half, from top to bottom, is given."""
    return (*half, *((1 - x, y) for x, y in reversed(half)))


# --- shapes -------------------------------------------------------------------------------------
HEART = Shape("heart", "hearts", (heart_outline(),))
STAR = Shape("star", "stars", (star_outline(0.5, 0.54, 0.54, 0.25),))
MOON = Shape(
    "moon",
    "moons",
    (ellipse(0.5, 0.5, 0.5),),
    holes=(ellipse(0.76, 0.40, 0.43),),
)
HOUSE = Shape(
    "house",
    "houses",
    (
        ((0.0, 0.50), (0.5, 0.04), (1.0, 0.50)),
        box(0.12, 0.46, 0.88, 0.99),
        box(0.70, 0.08, 0.84, 0.4),
    ),
    over=(
        Detail(((0.0, 0.51), (0.5, 0.04), (1.0, 0.51)), 0.62),
        Detail(box(0.70, 0.06, 0.84, 0.26), 0.5),
        Detail(box(0.40, 0.64, 0.62, 0.99), 0.0, CREAM),
    ),
)
TREE = Shape(
    "tree",
    "trees",
    (
        ((0.5, 0.0), (0.78, 0.34), (0.22, 0.34)),
        ((0.5, 0.16), (0.88, 0.60), (0.12, 0.60)),
        ((0.5, 0.36), (0.98, 0.84), (0.02, 0.84)),
    ),
    under=(Detail(box(0.40, 0.80, 0.60, 1.0), 0.0, WOOD),),
)
FISH = Shape(
    "fish",
    "fish",
    (
        curve(
            (0.0, 0.52),
            (0.18, 0.28),
            (0.45, 0.20),
            (0.72, 0.42),
            (0.72, 0.62),
            (0.45, 0.84),
            (0.18, 0.76),
        ),
        ((0.62, 0.52), (1.0, 0.18), (0.92, 0.52), (1.0, 0.86)),
        ((0.30, 0.28), (0.42, 0.08), (0.62, 0.32)),
    ),
    over=(
        Detail(ellipse(0.22, 0.45, 0.10), 0.0, WHITE),
        Detail(ellipse(0.21, 0.46, 0.055), 0.0, INK),
    ),
)
KEY = Shape(
    "key",
    "keys",
    (
        ellipse(0.29, 0.42, 0.29),
        box(0.48, 0.31, 1.0, 0.53),
        box(0.62, 0.42, 0.76, 0.78),
        box(0.86, 0.42, 1.0, 0.84),
    ),
    holes=(ellipse(0.27, 0.42, 0.12),),
    edge=0.4,
)
CLOUD = Shape(
    "cloud",
    "clouds",
    (
        ellipse(0.20, 0.66, 0.20),
        ellipse(0.34, 0.44, 0.21),
        ellipse(0.60, 0.40, 0.28),
        ellipse(0.82, 0.66, 0.18),
        rounded(0.10, 0.56, 0.92, 0.86, 0.10),
    ),
)
FLOWER = Shape(
    "flower",
    "flowers",
    tuple(ellipse(x, y, 0.22) for x, y in rays(0, 0, 0.29, 5, 0.5, 0.51)),
    over=(Detail(ellipse(0.5, 0.51, 0.16), 0.0, CREAM),),
)
MUSHROOM = Shape(
    "mushroom",
    "mushrooms",
    ((*arc(0.5, 0.52, 0.5, 0.48, 180, 360), *arc(0.5, 0.52, 0.5, 0.12, 0, 180)),),
    under=(
        Detail(
            (
                (0.36, 0.50),
                (0.64, 0.50),
                (0.68, 0.86),
                (0.62, 0.98),
                (0.38, 0.98),
                (0.32, 0.86),
            ),
            0.0,
            CREAM,
        ),
    ),
    over=(
        Detail(ellipse(0.32, 0.30, 0.10), 0.0, WHITE),
        Detail(ellipse(0.66, 0.24, 0.08), 0.0, WHITE),
        Detail(ellipse(0.76, 0.46, 0.075), 0.0, WHITE),
    ),
)
CUP = Shape(
    "cup",
    "cups",
    (
        (
            (0.02, 0.22),
            (0.70, 0.22),
            (0.66, 0.84),
            (0.56, 0.94),
            (0.16, 0.94),
            (0.06, 0.84),
        ),
        ellipse(0.72, 0.52, 0.27, 0.24),
        ellipse(0.36, 0.22, 0.34, 0.10),
    ),
    holes=(ellipse(0.76, 0.52, 0.11, 0.11),),
    over=(Detail(ellipse(0.36, 0.22, 0.27, 0.065), 0.0, CREAM),),
)
BOAT = Shape(
    "boat",
    "boats",
    (((0.0, 0.66), (1.0, 0.66), (0.82, 0.96), (0.18, 0.96)),),
    under=(
        Detail(box(0.46, 0.0, 0.53, 0.70), 0.0, WOOD),
        Detail(((0.56, 0.06), (0.95, 0.58), (0.56, 0.58)), 0.55, (0.42, 0.42, 0.42)),
        Detail(((0.43, 0.16), (0.43, 0.58), (0.12, 0.58)), 0.55, (0.42, 0.42, 0.42)),
    ),
)
UMBRELLA = Shape(
    "umbrella",
    "umbrellas",
    (
        (
            *arc(0.5, 0.50, 0.5, 0.46, 180, 360),
            *arc(0.835, 0.50, 0.165, 0.09, 0, -180, corners=12),
            *arc(0.5, 0.50, 0.17, 0.09, 0, -180, corners=12),
            *arc(0.165, 0.50, 0.165, 0.09, 0, -180, corners=12),
        ),
    ),
    under=(
        Detail(box(0.465, 0.0, 0.535, 0.10), 0.0, WOOD),
        Detail(
            (
                (0.46, 0.40),
                (0.54, 0.40),
                *arc(0.65, 0.84, 0.11, 0.09, 180, 0, corners=12),
                *arc(0.65, 0.84, 0.19, 0.17, 0, 180, corners=16),
            ),
            0.0,
            WOOD,
        ),
    ),
)
APPLE = Shape(
    "apple",
    "apples",
    (
        curve(
            (0.5, 0.32),
            (0.68, 0.23),
            (0.90, 0.32),
            (0.96, 0.56),
            (0.84, 0.84),
            (0.64, 0.98),
            (0.5, 0.94),
            (0.36, 0.98),
            (0.16, 0.84),
            (0.04, 0.56),
            (0.10, 0.32),
            (0.32, 0.23),
        ),
    ),
    over=(
        Detail(((0.46, 0.36), (0.43, 0.06), (0.51, 0.04), (0.54, 0.36)), 0.0, WOOD),
        Detail(ellipse(0.70, 0.12, 0.19, 0.10, -24), 0.0, LEAF),
    ),
)
BELL = Shape(
    "bell",
    "bells",
    (
        mirrored(
            (
                (0.5, 0.06),
                (0.62, 0.09),
                (0.74, 0.22),
                (0.79, 0.44),
                (0.83, 0.62),
                (0.96, 0.76),
                (0.96, 0.84),
            )
        ),
        ellipse(0.5, 0.07, 0.08),
    ),
    under=(Detail(ellipse(0.5, 0.87, 0.13), 0.0, SLATE),),
    over=(Detail(box(0.04, 0.74, 0.96, 0.84), 0.62),),
)
BUTTERFLY = Shape(
    "butterfly",
    "butterflies",
    (
        ellipse(0.25, 0.31, 0.31, 0.22, 38),
        ellipse(0.75, 0.31, 0.31, 0.22, -38),
        ellipse(0.29, 0.74, 0.22, 0.20, -30),
        ellipse(0.71, 0.74, 0.22, 0.20, 30),
    ),
    over=(
        Detail(ellipse(0.22, 0.30, 0.09), 0.5, (0.45, 0.45, 0.45)),
        Detail(ellipse(0.78, 0.30, 0.09), 0.5, (0.45, 0.45, 0.45)),
        Detail(ellipse(0.5, 0.54, 0.06, 0.38), 0.0, SLATE),
    ),
)

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        HEART,
        STAR,
        MOON,
        HOUSE,
        TREE,
        FISH,
        KEY,
        CLOUD,
        FLOWER,
        MUSHROOM,
        CUP,
        BOAT,
        UMBRELLA,
        APPLE,
        BELL,
        BUTTERFLY,
    )
}
"""The shapes by name."""
