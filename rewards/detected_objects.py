"""Objects asked for in a prompt and found by a detector, as GenEval counts them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from steer.annotations import NotNegative
from steer.build import resolve
from steer.conditions import Condition

__all__ = ["DetectedObjects"]

Detection = Mapping[str, Any]
"""`label`, `score` in [0, 1], `box` (left, top, right, bottom) in pixels, and perhaps `color`."""

MARGIN = 0.1  # of both sizes, within which centres count as level
MOST = 16  # objects of one class that count


class DetectedObjects(Reward):
    """r(x, y) = 1 if the picture shows what is asked for and nothing excluded, 0 if not.

    What is asked for comes with the prompts, as in GenEval's file of metadata: the fields `include`
    and perhaps `exclude` and `tag` of a steer.Condition, which `prompts=evaluation_metadata.jsonl`
    fills. `include` is a JSON list of {"class", "count"} with perhaps "color" and "position":
    [relation, index of an earlier entry]. Objects below `threshold` do not count, nor those below
    `counting` where the tag is "counting"; the most certain come first.

    GenEval itself detects by Mask2Former and tells colours by a CLIP on the cut-out object; here
    both are the detector's, so that figures agree with published ones as far as the detector does.

    Reference: Ghosh, Hajishirzi & Schmidt 2023, GenEval, arXiv:2310.11513.

    Args:
        detector: pictures (b, c, h, w) in [0, 1] -> a list of b lists of detections, each with a
            `label`, a `score`, a `box` (left, top, right, bottom), and a `color` where colours are
            asked for; a function, or its dotted path or file.py:name.
        partial: whether to count the share of requirements that hold instead, for searches that
            need a slope.
        threshold, counting: the scores above which a detection counts.

    Raises:
        ValueError: if the detector is no function; when called, without `include`, or for what the
            detector returns.
    """

    differentiable = False
    why_not_differentiable = "DetectedObjects counts objects."
    instead = "Use a method without gradients, such as best-of-n, or a differentiable reward."

    def __init__(
        self,
        detector: Callable[[Tensor], Sequence[Sequence[Detection]]] | str,
        partial: bool = False,
        threshold: NotNegative = 0.3,
        counting: NotNegative = 0.9,
    ) -> None:
        super().__init__()
        self.detector = resolve(detector) if isinstance(detector, str) else detector
        if not callable(self.detector):
            raise ValueError(f"DetectedObjects: expected a function as detector, got {detector!r}")
        self.partial = partial
        self.threshold = threshold
        self.counting = counting
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        wanted = requirements_of(cond, len(x))
        found = self.detector(x.detach())
        if not isinstance(found, Sequence) or len(found) != len(x):
            raise ValueError(
                f"DetectedObjects: expected a list of {len(x)} lists of detections, got "
                f"{type(found).__name__}: correct the detector"
            )
        values = [self.score(boxes, asked) for boxes, asked in zip(found, wanted, strict=True)]
        return torch.tensor(values, dtype=x.dtype, device=x.device)

    def score(self, detections: Sequence[Detection], asked: Mapping[str, Any]) -> float:
        """Score one picture."""
        least = self.counting if asked["tag"] == "counting" else self.threshold
        objects = by_class(detections, least)
        groups: list[list[Detection] | None] = []
        for entry in asked["include"]:
            groups.append(matching(objects, entry, groups))
        held = [group is not None for group in groups]
        held += [
            len(objects.get(entry["class"], [])) < entry["count"] for entry in asked["exclude"]
        ]
        return sum(held) / len(held) if self.partial else float(all(held))

    def extra_repr(self) -> str:
        return f"partial={self.partial}, threshold={self.threshold:g}, counting={self.counting:g}"


def requirements_of(cond: Cond, samples: int) -> list[dict[str, Any]]:
    """Read what is asked for of each sample. Raises ValueError where nothing is."""
    fields = cond.fields if isinstance(cond, Condition) else {}
    if not isinstance(fields.get("include"), list):
        raise ValueError(
            "DetectedObjects: expected the field include in a Condition, got none: give prompts as "
            "a file of GenEval's metadata, one JSON object a line"
        )
    tags = fields.get("tag", [""] * samples)
    excluded = fields.get("exclude", [""] * samples)
    asked = []
    for include, exclude, tag in zip(fields["include"], excluded, tags, strict=True):
        try:
            entry = {
                "include": json.loads(include),
                "exclude": json.loads(exclude or "[]"),
                "tag": tag,
            }
            for each in (*entry["include"], *entry["exclude"]):
                each["class"], each["count"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                'DetectedObjects: expected include as a list of {"class": ..., "count": ...}, got '
                f"{include!r}"
            ) from error
        if not entry["include"] and not entry["exclude"]:
            raise ValueError("DetectedObjects: nothing is asked for: include is empty")
        asked.append(entry)
    return asked


def by_class(detections: Sequence[Detection], least: float) -> dict[str, list[Detection]]:
    """Sort what is certain enough by class, the most certain first."""
    try:
        certain = [each for each in detections if each["score"] > least]
        found: dict[str, list[Detection]] = {}
        for each in sorted(certain, key=lambda each: -each["score"]):
            found.setdefault(each["label"], []).append(each)
    except (KeyError, TypeError) as error:
        raise ValueError(
            "DetectedObjects: expected detections with label, score and box, got "
            f"{detections!r:.120}: correct the detector"
        ) from error
    return {label: each[:MOST] for label, each in found.items()}


def matching(
    objects: Mapping[str, list[Detection]],
    entry: Mapping[str, Any],
    groups: Sequence[list[Detection] | None],
) -> list[Detection] | None:
    """Find the objects that fulfil one requirement; None if it does not hold."""
    found = objects.get(entry["class"], [])[: entry["count"]]
    if len(found) < entry["count"]:
        return None
    if "color" in entry and sum(colour_of(each) == entry["color"] for each in found) < len(found):
        return None
    if "position" in entry:
        relation, index = entry["position"]
        targets = groups[index] if index < len(groups) else None
        if targets is None:
            return None
        if any(relation not in relations(each, other) for each in found for other in targets):
            return None
    return found


def colour_of(detection: Detection) -> str:
    """Return the colour of an object. Raises ValueError if the detector names none."""
    if "color" not in detection:
        raise ValueError(
            "DetectedObjects: a prompt asks for a colour and the detector names none: let it give "
            "each detection a color"
        )
    return detection["color"]


def relations(one: Detection, other: Detection) -> set[str]:
    """List where one object is relative to another: none, one or two of four directions.

    The offset of the centres counts beyond a tenth of both sizes together, and a direction holds
    where it makes up more than half of the whole offset.
    """
    a, b = (torch.tensor(each["box"], dtype=torch.float64).view(2, 2) for each in (one, other))
    offset = a.mean(0) - b.mean(0)
    sizes = (a[1] - a[0]).abs() + (b[1] - b[0]).abs()
    beyond = (offset.abs() - MARGIN * sizes).clamp(min=0) * offset.sign()
    if (beyond.abs() < 1e-3).all():
        return set()
    right, down = (beyond / offset.norm()).tolist()
    held = {
        "left of": right < -0.5,
        "right of": right > 0.5,
        "above": down < -0.5,
        "below": down > 0.5,
    }
    return {name for name, holds in held.items() if holds}
