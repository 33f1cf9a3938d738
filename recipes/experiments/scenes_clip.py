"""What the two CLIPs of scenes know: recall on held-out captions, and which caption they prefer.

    python -m recipes.experiments.scenes_clip      # ten minutes on one core, resumable
    python -m recipes.experiments.scenes_clip scenes-clip=runs/scenes-clip/clip.safetensors

The second measures a file before it is shipped, and keeps no cell of it. Recall is among 500
pictures whose captions name combinations held out of the training of the first CLIP, a hit being
any with the same caption. Preference is between the caption of a picture and the same with one
thing changed so that it is false: the colour, shape or number of one group, the relation turned
round, or the colours of two groups exchanged. The scenes are drawn, so that the truth is known, and
the reader of scenes stands beside the CLIPs; a coin gets 1/2. Pictures are looked at as drawn, and
blurred and noisy as samples of a model are.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.experiments.cells import Cells, shipped
from recipes.experiments.findings import Finding, table, within
from recipes.experiments.scenes_world import sampled
from rewards import ClipScore
from steer.data.scenes import (
    Asked,
    Group,
    Reading,
    describe,
    draw_scenes,
    parse,
    read,
    render,
    shown,
)
from steer.data.scenes.captions import MOST
from steer.data.scenes.scene import COLOURS, OPPOSITE
from steer.data.scenes.shapes import SHAPES
from steer.metrics import recall_at

STEER_BY, JUDGE_BY = "scenes-clip", "scenes-clip-judge"
CLIPS = (STEER_BY, JUDGE_BY)
WEIGHTS = tuple(name for name in CLIPS if name in shipped())  # none before they are shipped
SEED = 2  # of scenes that neither has trained on
GALLERY = 500
GALLERIES = 4
RECALLS = (1, 5)
WAYS = ("text to image", "image to text")
VIEWS = ("drawn", "blurred")
READER = "reader"


# --- captions that are false --------------------------------------------------------------------
def recoloured(asked: Asked, rng: np.random.Generator) -> Asked | None:
    """Another colour for one group."""
    k = chosen([group.colour is not None for group in asked.groups], rng)
    if k is None:
        return None
    others = [name for name in COLOURS if name != asked.groups[k].colour]
    return changed(asked, k, colour=others[rng.integers(len(others))])


def reshaped(asked: Asked, rng: np.random.Generator) -> Asked | None:
    """Another shape, one that is not in the picture, for one group."""
    there = [group.shape for group in asked.groups]
    others = [name for name in SHAPES if name not in there]
    k = int(rng.integers(len(there)))
    return changed(asked, k, shape=others[rng.integers(len(others))])


def recounted(asked: Asked, rng: np.random.Generator) -> Asked | None:
    """Another number of one group that has a number; "a" is left alone."""
    k = chosen([group.exact or group.count > 1 for group in asked.groups], rng)
    if k is None:
        return None
    rest = sum(group.count for j, group in enumerate(asked.groups) if j != k)
    others = [n for n in range(1, MOST - rest + 1) if n != asked.groups[k].count]
    if not others:
        return None
    return changed(asked, k, count=others[rng.integers(len(others))], exact=True)


def turned(asked: Asked, rng: np.random.Generator) -> Asked | None:
    """The opposite relation."""
    return replace(asked, relation=OPPOSITE[asked.relation]) if asked.relation else None


def exchanged(asked: Asked, rng: np.random.Generator) -> Asked | None:
    """The colours of both groups exchanged."""
    colours = [group.colour for group in asked.groups]
    if len(colours) < 2 or None in colours or colours[0] == colours[1]:
        return None
    return replace(
        asked,
        groups=tuple(
            replace(group, colour=colour)
            for group, colour in zip(asked.groups, reversed(colours), strict=True)
        ),
    )


def chosen(may: list[bool], rng: np.random.Generator) -> int | None:
    """One of the groups that may be changed, None where none may."""
    able = [k for k, yes in enumerate(may) if yes]
    return able[rng.integers(len(able))] if able else None


def changed(asked: Asked, k: int, **changes: Any) -> Asked:
    """Group k changed."""
    groups: list[Group] = list(asked.groups)
    groups[k] = replace(groups[k], **changes)
    return replace(asked, groups=tuple(groups))


TASKS: dict[str, Callable[[Asked, np.random.Generator], Asked | None]] = {
    "colour": recoloured,
    "shape": reshaped,
    "count": recounted,
    "relation": turned,
    "binding": exchanged,
}


def pair(asked: Asked, false: Asked, seed: int) -> tuple[str, str]:
    """What is asked for, true and false, in one and the same wording."""
    true, wrong = (describe(each, np.random.default_rng(seed)) for each in (asked, false))
    return true, wrong


# --- pictures -----------------------------------------------------------------------------------
@functools.cache
def scenes() -> tuple[Tensor, list[str]]:
    """Held-out scenes: pictures (n, 3, 32, 32) in [0, 1] and captions."""
    made = draw_scenes("heldout", GALLERY * GALLERIES, SEED)
    pictures = torch.from_numpy(render([each.scene for each in made]))
    return pictures.permute(0, 3, 1, 2) / 255, [each.caption for each in made]


def seen(pictures: Tensor, view: str) -> Tensor:
    """The pictures in that view."""
    return pictures if view == "drawn" else sampled(pictures)


# --- cells --------------------------------------------------------------------------------------
@torch.no_grad()
def recall(score: ClipScore) -> dict[str, tuple[float, float]]:
    """Recall both ways with its standard error over the galleries."""
    found: dict[str, list[float]] = {}
    pictures, captions = scenes()
    for k in range(0, len(captions), GALLERY):
        said = captions[k : k + GALLERY]
        images = score.model.encode_image(score.preprocess(pictures[k : k + GALLERY]), True)
        texts = torch.stack([score.embedding(each) for each in said])
        same = torch.tensor([[a == b for b in said] for a in said])
        for way, similarity in zip(WAYS, (texts @ images.T, images @ texts.T), strict=True):
            for nearest in RECALLS:
                found.setdefault(f"{way} {nearest}", []).append(
                    recall_at(similarity, same, nearest).item()
                )
    return {
        name: (float(np.mean(each)), float(np.std(each, ddof=1) / len(each) ** 0.5))
        for name, each in found.items()
    }


@functools.cache
def pairs(task: str) -> tuple[list[int], list[str], list[str]]:
    """The numbers of the pictures that the task applies to, true captions and false ones."""
    rows, true, false = [], [], []
    for k, caption in enumerate(scenes()[1]):
        asked = parse(caption)
        other = TASKS[task](asked, np.random.default_rng(k))
        if other is not None:
            said, wrong = pair(asked, other, k)
            rows.append(k)
            true.append(said)
            false.append(wrong)
    return rows, true, false


@torch.no_grad()
def preference(score: ClipScore, task: str, view: str) -> dict[str, float]:
    """The share of pictures whose true caption scores higher than the false one, and how many."""
    rows, true, false = pairs(task)
    x = seen(scenes()[0], view)[rows]
    better = in_parts(score, x, true) > in_parts(score, x, false)
    return {"share": better.double().mean().item(), "pairs": len(rows)}


@functools.cache
def readings(view: str) -> list[Reading]:
    """What the reader finds in the pictures."""
    return read(seen(scenes()[0], view))


def told_apart(task: str, view: str) -> dict[str, float]:
    """The same share for the reader, which takes a caption for true or for false."""
    triples = list(zip(*pairs(task), strict=True))
    found = readings(view)
    better = [
        bool(shown(found[k], parse(true))["overall"])
        and not shown(found[k], parse(false))["overall"]
        for k, true, false in triples
    ]
    return {"share": float(np.mean(better)), "pairs": len(better)}


def in_parts(score: ClipScore, x: Tensor, prompts: list[str]) -> Tensor:
    """The scores of pictures, `GALLERY` at a time."""
    parts = range(0, len(x), GALLERY)
    return torch.cat([score(x[k : k + GALLERY], prompts[k : k + GALLERY]) for k in parts])


# --- the page -----------------------------------------------------------------------------------
def results(cells: Mapping[str, Any]) -> str:
    """Recalls, then preferences."""
    columns = [f"{way} {k}" for way in WAYS for k in RECALLS]
    heads = ["CLIP", *(f"{way}, recall@{k}" for way in WAYS for k in RECALLS)]
    rows = [[name, *(within(*cells[f"{name} recall"][c]) for c in columns)] for name in CLIPS]
    tasks = ["prefers the true caption", "pictures", *TASKS]
    preferred = [
        [name, view, *(preferred_text(cells[f"{name} {task} {view}"]) for task in TASKS)]
        for name in (*CLIPS, READER)
        for view in VIEWS
    ]
    return f"{table(heads, rows)}\n\n{table(tasks, preferred)}"


def preferred_text(cell: Mapping[str, float]) -> str:
    """A share with its standard error."""
    share = cell["share"]
    return within(share, (share * (1 - share) / cell["pairs"]) ** 0.5)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """Whether the first CLIP is one to steer by, and one that can be fooled."""
    colour, relation = (cells[f"{STEER_BY} {task} drawn"] for task in ("colour", "relation"))
    return [
        Finding(
            "`scenes-clip` prefers the true colour in held-out pictures",
            "at least .9",
            preferred_text(colour),
            colour["share"] >= 0.9,
        ),
        Finding(
            "`scenes-clip` is weaker on relations than on colours",
            "by .1",
            f"{preferred_text(relation)} to {preferred_text(colour)}",
            colour["share"] - relation["share"] >= 0.1,
        ),
    ]


def main() -> None:
    files = dict(word.split("=", 1) for word in sys.argv[1:])
    for name, file in files.items():
        score = ClipScore(file)
        print(name, recall(score))
        for task in TASKS:
            print(name, task, [preference(score, task, view) for view in VIEWS], flush=True)
    if files:
        return
    kept = Cells("scenes_clip", WEIGHTS)
    for name in CLIPS:
        score = ClipScore(name)
        kept.get(f"{name} recall", partial(recall, score))
        for task in TASKS:
            for view in VIEWS:
                kept.get(f"{name} {task} {view}", partial(preference, score, task, view))
    for task in TASKS:
        for view in VIEWS:
            kept.get(f"{READER} {task} {view}", partial(told_apart, task, view))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
