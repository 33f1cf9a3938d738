"""Combinations that training never shows, so that held-out captions need composition.

Every shape, colour, number and relation is seen in training; held out are

- one colour of each shape (no orange heart),
- two or three of every second shape (no two hearts, no three moons), and
- one in eight of the (shape, relation, shape), with their opposites.
"""

from steer.data.scenes.captions import Asked
from steer.data.scenes.scene import COLOURS, OPPOSITE
from steer.data.scenes.shapes import SHAPES
from steer.data.stream import key

__all__ = ["held_out"]

ORDER = {name: k for k, name in enumerate(SHAPES)}
HELD_COLOUR = {name: list(COLOURS)[(3 * k + 1) % len(COLOURS)] for name, k in ORDER.items()}
HELD_COUNT = {name: {0: 2, 2: 3}.get(k % 4) for name, k in ORDER.items()}
ONE_IN = 8


def held_out(asked: Asked) -> tuple[str, ...]:
    """List the held-out combinations that a caption names: of "colour", "count", "relation"."""
    found = []
    if any(group.colour == HELD_COLOUR[group.shape] for group in asked.groups):
        found.append("colour")
    if any(group.count == HELD_COUNT[group.shape] for group in asked.groups):
        found.append("count")
    if asked.relation:
        first, second = (group.shape for group in asked.groups)
        if held_relation(first, second, asked.relation):
            found.append("relation")
    return tuple(found)


def held_relation(first: str, second: str, relation: str) -> bool:
    """Whether first and second, so related, are held out."""
    if relation in ("right of", "below"):
        first, second, relation = second, first, OPPOSITE[relation]
    return key("scenes", first, relation, second) % ONE_IN == 0
