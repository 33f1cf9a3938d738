"""Captions of scenes: several wordings of what is asked for, and the way back from words.

"two red hearts above a blue star" asks for two groups, (2, red, heart) and (1, blue, star), and the
relation "above". "A" and "an" ask for at least one object; a number asks for exactly so many.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer.data.scenes.scene import COLOURS, OPPOSITE
from steer.data.scenes.shapes import SHAPES
from steer.nearest import hint

__all__ = ["Asked", "Group", "describe", "parse", "vocabulary"]

MOST = 3
"""Objects in a scene, at most."""

NUMBERS = {"one": 1, "two": 2, "three": 3}
ARTICLES = ("a", "an")
NOUNS = {word: s.name for s in SHAPES.values() for word in (s.plural, s.name)}
WORDINGS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
PHRASES = {words: relation for relation, options in WORDINGS.items() for words in options}
OPENINGS = ("a picture of", "a drawing of", "an image of", "a photo of", "there is", "there are")
VERBS = ("is", "are")
WORDS = {
    *NUMBERS,
    *ARTICLES,
    *NOUNS,
    *COLOURS,
    *VERBS,
    "and",
    *(word for phrase in (*PHRASES, *OPENINGS) for word in phrase.split()),
}
EXAMPLE = "write such as 'two red hearts above a blue star'"


@dataclass(frozen=True)
class Group:
    """Objects of one kind.

    Attributes:
        shape: a key of SHAPES.
        colour: a key of COLOURS, or None for any.
        count: how many.
        exact: whether exactly so many are asked for ("one", "two"), or at least ("a").
    """

    shape: str
    colour: str | None = None
    count: int = 1
    exact: bool = False


@dataclass(frozen=True)
class Asked:
    """What a caption asks for.

    Attributes:
        groups: one group, or two.
        relation: of the first group to the second, a key of RELATIONS, or None.
    """

    groups: tuple[Group, ...]
    relation: str | None = None


def vocabulary() -> list[str]:
    """List the words of captions, sorted."""
    return sorted(WORDS)


# --- from what is asked for to words ------------------------------------------------------------
def describe(asked: Asked, rng: np.random.Generator) -> str:
    """Word what is asked for in one of several ways, all of them true of the same scenes."""
    groups, relation = asked.groups, asked.relation
    if len(groups) == 2 and rng.random() < 0.5:
        groups = groups[::-1]
        relation = OPPOSITE[relation] if relation else None
    first, *second = (noun_phrase(group) for group in groups)
    verb = "are" if groups[0].count > 1 else "is"
    said = first
    if second:
        joint = any_of(WORDINGS[relation], rng) if relation else "and"
        copula = f"{verb} " if relation and rng.random() < 0.15 else ""
        said = f"{first} {copula}{joint} {second[0]}"
        if copula:
            return said
    opening = any_of(("", "", "", f"there {verb} ", "a picture of ", "a drawing of "), rng)
    return opening + said


def any_of(words: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of these words."""
    return words[int(rng.integers(len(words)))]


def noun_phrase(group: Group) -> str:
    """Word one group, as "two red hearts" or "an apple"."""
    shape = SHAPES[group.shape]
    name = shape.plural if group.count > 1 else shape.name
    said = f"{group.colour} {name}" if group.colour else name
    if group.exact or group.count > 1:
        return f"{list(NUMBERS)[group.count - 1]} {said}"
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"


# --- from words to what is asked for ------------------------------------------------------------
def parse(caption: str) -> Asked:
    """Return what a caption asks for.

    Raises:
        ValueError: an empty caption, unknown words (named, with the nearest known), or words in an
            order that is not understood.
    """
    words = re.findall(r"[^\s.,!;:\"]+", caption.lower())
    if not words:
        raise ValueError(f"expected a caption, got an empty one: {EXAMPLE}")
    words = [list(NUMBERS)[int(w) - 1] if w in ("1", "2", "3") else w for w in words]
    unknown = [word for word in dict.fromkeys(words) if word not in WORDS]
    if unknown:
        said = "; ".join(f"no word {word!r}, {hint(word, known_for(word))}" for word in unknown)
        raise ValueError(f"caption {caption!r}: the scenes know {said}")
    reader = _Words(caption, words)
    reader.skip(OPENINGS)
    groups = [reader.group()]
    relation = None
    if reader.left:
        reader.skip(VERBS)
        relation = PHRASES.get(reader.skip((*PHRASES, "and")) or reader.refuse())
        groups.append(reader.group())
    if reader.left:
        reader.refuse()
    asked = Asked(tuple(groups), relation)
    total = sum(group.count for group in groups)
    if total > MOST:
        raise ValueError(
            f"caption {caption!r} asks for {total} objects: a scene has {MOST} at most"
        )
    return asked


def known_for(word: str) -> Sequence[str]:
    """List the words to suggest: plural nouns for what ends in s, and all others."""
    plurals = {shape.plural for shape in SHAPES.values()}
    singular = {shape.name for shape in SHAPES.values()}
    return sorted(WORDS - (singular - plurals if word.endswith("s") else plurals - singular))


class _Words:
    """The words of a caption, taken from the left."""

    def __init__(self, caption: str, words: list[str]) -> None:
        self.caption = caption
        self.left = words

    def skip(self, phrases: Sequence[str]) -> str | None:
        """Take the longest of these phrases that comes next, if one does."""
        for phrase in sorted(phrases, key=len, reverse=True):
            words = phrase.split()
            if self.left[: len(words)] == words:
                self.left = self.left[len(words) :]
                return phrase
        return None

    def group(self) -> Group:
        """Take a number or article, a colour and a noun; the first two may be missing."""
        number = self.skip((*NUMBERS, *ARTICLES))
        colour = self.skip(tuple(COLOURS))
        noun = self.skip(tuple(NOUNS)) or self.refuse()
        shape = SHAPES[NOUNS[noun]]
        if number is None and noun == shape.plural != shape.name:
            raise ValueError(f"caption {self.caption!r}: say how many {noun}; {EXAMPLE}")
        return Group(shape.name, colour, NUMBERS.get(number or "", 1), number in NUMBERS)

    def refuse(self) -> str:
        """Raise ValueError at the next word."""
        place = f"at {self.left[0]!r}" if self.left else "at its end"
        raise ValueError(f"caption {self.caption!r} is not understood {place}: {EXAMPLE}")
