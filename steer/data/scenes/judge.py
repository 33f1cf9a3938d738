"""What of its caption a picture shows, task by task as GenEval has them.

Reference: Ghosh, Hajishirzi & Schmidt 2023, GenEval: an object-focused framework for evaluating
text-to-image alignment, arXiv 2310.11513.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.data.scenes.captions import Asked, Group, parse
from steer.data.scenes.reader import Reading, Seen, read
from steer.data.scenes.scene import RELATIONS

__all__ = ["TASKS", "score", "shown"]

TASKS = (
    "object",
    "count",
    "colour",
    "two_objects",
    "position",
    "attribute_binding",
    "overall",
)
"""The tasks by which a picture is judged."""

Chooser = Callable[[Reading, Group], list[Seen]]

MARGIN = 2.0
"""Pixels by which related objects must lie apart along their relation, at least."""


def score(
    pictures: Float[Tensor, "b 3 32 32"], captions: Sequence[str]
) -> dict[str, Float[Tensor, " b"]]:
    """Judge pictures by their captions: 1 for right, 0 for wrong, NaN where a task does not apply.

    - object: of one group; an object of its shape is there.
    - count: where a number is named; exactly so many objects of each shape it is said of are there.
    - colour: of one group with a colour; objects of its shape have it, as many as asked for.
    - two_objects: of two groups; an object of each shape is there.
    - position: of a relation; it holds between all objects of the one shape and all of the other.
    - attribute_binding: of two groups with colours; each shape is there in its own colour.
    - overall: everything that the caption says holds of the same objects.

    Objects that the caption does not speak of are wrong only where a number is named: "one heart"
    refuses a second heart, of whatever colour, and "a heart" does not.

    Args:
        pictures: in [0, 1].
        captions: one for each picture.

    Raises:
        ValueError: another number of captions than of pictures; or as `read` and `parse` do.
    """
    if isinstance(captions, str) or len(captions) != len(pictures):
        given = "one string" if isinstance(captions, str) else f"{len(captions)} captions"
        raise ValueError(f"expected one caption for each of {len(pictures)} pictures, got {given}")
    asked = [parse(caption) for caption in captions]
    rows = [shown(reading, a) for reading, a in zip(read(pictures), asked, strict=True)]
    return {task: torch.tensor([number(row[task]) for row in rows]) for task in TASKS}


def number(holds: bool | None) -> float:
    """Convert True, False and None to 1, 0 and NaN."""
    return torch.nan if holds is None else float(holds)


def shown(reading: Reading, asked: Asked) -> dict[str, bool | None]:
    """Say which tasks a reading fulfils; None where a task does not apply (see `score`)."""
    groups = asked.groups
    pair = len(groups) == 2
    coloured = all(group.colour for group in groups)
    present = all(of_shape(reading, group) for group in groups)
    enough = all(len(matching(reading, group)) >= group.count for group in groups)
    exact = [group for group in groups if group.exact]
    counted = all(len(of_shape(reading, g)) == wanted(asked, g.shape) for g in exact)
    return {
        "object": None if pair else present,
        "count": counted if exact else None,
        "colour": enough if coloured and not pair else None,
        "two_objects": present if pair else None,
        "position": related(reading, asked, of_shape) if asked.relation else None,
        "attribute_binding": enough if coloured and pair else None,
        "overall": enough and counted and related(reading, asked, matching),
    }


def of_shape(reading: Reading, group: Group) -> list[Seen]:
    """List the objects that have the shape of a group."""
    return [seen for seen in reading.items if seen.shape == group.shape]


def matching(reading: Reading, group: Group) -> list[Seen]:
    """List the objects that have the shape of a group, and its colour if it has one."""
    return [seen for seen in of_shape(reading, group) if group.colour in (None, seen.colour)]


def wanted(asked: Asked, shape: str) -> int:
    """Count the objects of a shape that a caption asks for."""
    return sum(group.count for group in asked.groups if group.shape == shape)


def related(reading: Reading, asked: Asked, chosen: Chooser) -> bool:
    """Whether the relation asked for holds between all chosen objects of the two groups."""
    if asked.relation is None:
        return True
    first, second = (chosen(reading, group) for group in asked.groups)
    right, down = RELATIONS[asked.relation]
    return bool(first and second) and all(
        right * (a.x - b.x) + down * (a.y - b.y) >= MARGIN for a in first for b in second
    )
