"""Random scenes with captions, each keyed by the split, a seed and its number."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from steer.data.fashion import cache_folder
from steer.data.scenes.captions import Asked, Group, describe
from steer.data.scenes.draw import render
from steer.data.scenes.scene import (
    BACKGROUNDS,
    BORDER,
    COLOURS,
    RELATIONS,
    SIDE,
    SIZES,
    STEPS,
    Background,
    Item,
    Scene,
)
from steer.data.scenes.shapes import SHAPES
from steer.data.scenes.splits import held_out
from steer.data.stream import key

__all__ = ["CaptionedScene", "captioned_scenes", "draw_scenes", "scene_captions"]

SPLITS = ("train", "heldout", "all")
KINDS = ((1,), (2,), (3,), (1, 1), (1, 2), (2, 1))  # objects in each group
CHANCES = (0.25, 0.10, 0.08, 0.35, 0.11, 0.11)
RELATED = 0.85  # share of scenes with two groups whose caption names a relation
COLOURLESS = 0.15  # share of groups whose colour the caption leaves out
NUMBERED = 0.2  # share of single objects called "one"
DARK = 0.3  # share of dark backgrounds
SHADED = 0.6  # share of backgrounds that pass from one colour to another
OVERLAP = 0.2  # of the smaller square, at most
GAP = 6.0  # pixels between the centres of related objects along their relation, at least
SLANT = 0.8  # how far two groups may lie apart across their relation, as a share of along it
TRIES = 128

NAMES = tuple(SHAPES)
PAINTS = tuple(COLOURS)
PALE = tuple(name for name, rgb in BACKGROUNDS.items() if sum(rgb) > 1.5)
DARKS = tuple(name for name, rgb in BACKGROUNDS.items() if sum(rgb) <= 1.5)


@dataclass(frozen=True)
class CaptionedScene:
    """A scene and its caption."""

    scene: Scene
    caption: str


class Composition(NamedTuple):
    """What is drawn, every colour known, and what of it the caption says."""

    drawn: Asked
    said: Asked


# --- many scenes --------------------------------------------------------------------------------
def captioned_scenes(
    split: str = "train", count: int = 30_000, seed: int = 0, folder: str | Path | None = None
) -> tuple[UInt8[Tensor, "n 3 32 32"], list[str]]:
    """Load pictures (n, 3, 32, 32) uint8 and their captions, drawn at the first call.

    Args:
        split, count, seed: as in `draw_scenes`.
        folder: where they are kept; by default `scenes` in the cache of this package.
    """
    check(split, count)
    home = Path(folder) if folder is not None else cache_folder() / "scenes"
    file = home / f"{split}-{count}-{seed}-{version()}.npz"
    if not file.is_file():
        made = draw_scenes(split, count, seed)
        save(file, render([each.scene for each in made]), [each.caption for each in made])
    try:
        with np.load(file) as kept:
            pictures, captions = kept["pictures"], kept["captions"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}): delete it to draw it anew") from error
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), captions.tolist()


def save(file: Path, pictures: np.ndarray, captions: list[str]) -> None:
    """Write a set of scenes; whole, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.npz")
    np.savez(part, pictures=pictures, captions=np.array(captions))
    part.replace(file)


def version() -> str:
    """Hash the sources that say what a scene looks like, so that no old drawing is taken."""
    names = ("shapes", "scene", "draw", "captions", "splits", "sample")
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)
    return hashlib.blake2b(b"".join(sources), digest_size=4).hexdigest()


def draw_scenes(split: str = "train", count: int = 1, seed: int = 0) -> list[CaptionedScene]:
    """Draw scenes; the k-th depends on the split, the seed and k alone.

    Args:
        split: "train" has no held-out combination (see `splits`), each caption of "heldout" names
            at least one, and "all" has everything.
        count: how many.
        seed: of the set.
    """
    check(split, count)
    return [one(split, np.random.default_rng(key("scenes", split, seed, k))) for k in range(count)]


def scene_captions(split: str = "heldout", count: int = 50, seed: int = 0) -> list[str]:
    """Word so many different captions of drawn scenes.

    Args:
        split, seed: as in `draw_scenes`.
        count: how many.
    """
    check(split, count)
    found: dict[str, None] = {}
    k = 0
    while len(found) < count:
        found[one(split, np.random.default_rng(key("scenes", split, seed, k))).caption] = None
        k += 1
    return list(found)


def check(split: str, count: int) -> None:
    """Raise ValueError for an unknown split or a count below one."""
    if split not in SPLITS:
        raise ValueError(f"scenes have the splits {', '.join(map(repr, SPLITS))}; got {split!r}")
    if count < 1:
        raise ValueError(f"expected a count of scenes of at least 1, got {count}")


# --- one scene ----------------------------------------------------------------------------------
def one(split: str, rng: np.random.Generator) -> CaptionedScene:
    """Draw one scene of a split."""
    composition = next(found for found in compositions(rng) if belongs(found, split))
    items = next(placed for placed in layouts(composition.drawn, rng) if placed)
    order = rng.permutation(len(items))
    scene = Scene(tuple(items[k] for k in order), ground(rng))
    return CaptionedScene(scene, describe(composition.said, rng))


def belongs(composition: Composition, split: str) -> bool:
    """Whether a composition is of a split."""
    if split == "train":
        return not held_out(composition.drawn)
    return split == "all" or bool(held_out(composition.said))


def compositions(rng: np.random.Generator) -> Iterator[Composition]:
    """Draw compositions without end."""
    while True:
        counts = KINDS[rng.choice(len(KINDS), p=CHANCES)]
        shapes = rng.permutation(len(SHAPES))[: len(counts)]
        drawn = tuple(
            Group(NAMES[k], pick(PAINTS, rng), count, count > 1 or rng.random() < NUMBERED)
            for k, count in zip(shapes, counts, strict=True)
        )
        said = tuple(
            replace(group, colour=None) if rng.random() < COLOURLESS else group for group in drawn
        )
        related = len(counts) == 2 and rng.random() < RELATED
        relation = pick(tuple(RELATIONS), rng) if related else None
        yield Composition(Asked(drawn, relation), Asked(said, relation))


def pick(names: tuple[str, ...], rng: np.random.Generator) -> str:
    """Draw one of these names."""
    return names[rng.integers(len(names))]


def layouts(drawn: Asked, rng: np.random.Generator) -> Iterator[list[Item] | None]:
    """Place the objects at random sizes again and again; None where they do not fit."""
    groups = [group for group in drawn.groups for _ in range(group.count)]
    first = np.array([group is drawn.groups[0] for group in groups])
    while True:
        chosen = {group: pick(tuple(SIZES), rng) for group in drawn.groups}
        sizes = [chosen[group] for group in groups]
        sides = np.array([SIZES[size] for size in sizes])
        spots = places(sides, first, drawn.relation, rng)
        yield (
            spots
            if spots is None
            else [
                Item(group.shape, str(group.colour), size, float(x), float(y))
                for group, size, (x, y) in zip(groups, sizes, spots, strict=True)
            ]
        )


def places(
    sides: np.ndarray, first: np.ndarray, relation: str | None, rng: np.random.Generator
) -> np.ndarray | None:
    """Find centres (n, 2) of squares that hardly overlap and lie as related; None without luck.

    Args:
        sides: of the squares, in pixels.
        first: which of them belong to the first group.
        relation: of the first group to the second.
    """
    least = (sides / 2 + BORDER)[None, :, None]
    spots = least + rng.random((TRIES, len(sides), 2)) * (SIDE - 2 * least)
    spots = np.round(spots * STEPS) / STEPS
    good = np.ones(TRIES, dtype=bool)
    for i, j in itertools.combinations(range(len(sides)), 2):
        apart = np.abs(spots[:, i] - spots[:, j])
        shared = ((sides[i] + sides[j]) / 2 - apart).clip(0, min(sides[i], sides[j])).prod(-1)
        good &= shared <= OVERLAP * min(sides[i], sides[j]) ** 2
    if relation:
        good &= related(spots[:, first], spots[:, ~first], relation)
    return spots[good.argmax()] if good.any() else None


def related(first: np.ndarray, second: np.ndarray, relation: str) -> np.ndarray:
    """Whether each of the tries (t, n, 2) and (t, m, 2) shows the relation, clearly."""
    direction = np.array(RELATIONS[relation])
    apart = (first[:, :, None] - second[:, None]) @ direction
    mean = first.mean(1) - second.mean(1)
    across = np.abs(mean @ direction[::-1])
    return (apart >= GAP).all((1, 2)) & (across <= SLANT * (mean @ direction))


def ground(rng: np.random.Generator) -> Background:
    """Draw a background."""
    family = DARKS if rng.random() < DARK else PALE
    first = pick(family, rng)
    second = pick(family, rng) if rng.random() < SHADED else first
    return Background(first, second, 45.0 * rng.integers(8))
