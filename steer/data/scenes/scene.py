"""Scenes: which objects, where, and on what background."""

from dataclasses import dataclass
from typing import Literal

from steer.data.scenes.shapes import SHAPES

__all__ = ["BACKGROUNDS", "COLOURS", "RELATIONS", "SIDE", "SIZES", "Background", "Item", "Scene"]

Rgb = tuple[float, float, float]
Relation = Literal["left of", "right of", "above", "below"]

SIDE = 32
"""Pixels along a side of a picture."""

STEPS = 4
"""Positions per pixel: an object lies on a grid of quarter pixels."""

BORDER = 1.5
"""Pixels between an object and the edge of the picture, at least."""

COLOURS: dict[str, Rgb] = {
    "red": (0.90, 0.16, 0.19),
    "orange": (0.98, 0.54, 0.10),
    "yellow": (0.99, 0.84, 0.16),
    "green": (0.20, 0.70, 0.30),
    "blue": (0.15, 0.47, 0.95),
    "purple": (0.54, 0.27, 0.84),
    "pink": (1.00, 0.52, 0.75),
    "brown": (0.60, 0.38, 0.22),
}
"""The colours of objects, red, green and blue in [0, 1]."""

SIZES: dict[str, float] = {"small": 11.0, "large": 14.5}
"""The sides of an object's square in pixels."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""The direction (x, y) in which the first object lies from the second; y points down."""

OPPOSITE: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
"""The relation of the second object to the first."""

BACKGROUNDS: dict[str, Rgb] = {
    "snow": (0.97, 0.97, 0.96),
    "cream": (0.98, 0.95, 0.87),
    "mist": (0.85, 0.92, 0.97),
    "mint": (0.86, 0.95, 0.89),
    "lilac": (0.91, 0.89, 0.97),
    "pebble": (0.84, 0.85, 0.86),
    "charcoal": (0.12, 0.13, 0.15),
    "midnight": (0.07, 0.09, 0.20),
    "pine": (0.05, 0.14, 0.15),
}
"""Pale and dark colours of backgrounds, none of which an object has."""


@dataclass(frozen=True)
class Item:
    """An object.

    Attributes:
        shape, colour, size: a key of SHAPES, COLOURS and SIZES.
        x, y: its centre in pixels from the left and from the top, in quarters.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float

    def __post_init__(self) -> None:
        kinds = (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES))
        for name, known in kinds:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"an item has one of these as its {name}: {', '.join(known)};"
                    f" got {getattr(self, name)!r}"
                )
        reach = SIZES[self.size] / 2
        if not all(reach <= spot <= SIDE - reach for spot in (self.x, self.y)):
            raise ValueError(
                f"a {self.size} item has its centre between {reach} and {SIDE - reach};"
                f" got ({self.x}, {self.y})"
            )


@dataclass(frozen=True)
class Background:
    """A background that is plain, or passes from the `first` colour to the `second`.

    Attributes:
        first, second: keys of BACKGROUNDS; the same for a plain one.
        angle: the direction of the passage in degrees, 90 from top to bottom.
    """

    first: str
    second: str
    angle: float = 90.0


@dataclass(frozen=True)
class Scene:
    """Objects on a background; later items lie in front of earlier ones."""

    items: tuple[Item, ...]
    background: Background
