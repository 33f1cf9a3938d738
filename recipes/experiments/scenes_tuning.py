"""Tuning the map of captioned scenes by a CLIP that it may fool, and by a reader that it may not.

    python -m recipes.experiments.scenes_tuning      # hours on one core; it goes on where it was

The map is tuned on captions of training; samples of captions that name a held-out combination are
looked at on the way, by single jumps. The CLIP's score has a gradient. The reader counts objects
and has none: it rewards what the caption says. Whatever is tuned to, the reader's overall accuracy
on held-out captions is what counts, beside the other CLIP's score and diversity in its features.
Rates and looks are chosen on other captions than those of the table: a method's rate is that of the
highest accuracy so far, averaged over the looks of the first half, from a grid that is extended
while the best is at its end; a run counts by its look of the highest accuracy, whose weights are
drawn in four jumps as well. Two seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.evaluation.metrics import Figures, Measure
from recipes.experiments.cells import FOLDER, Cells, shipped
from recipes.experiments.findings import Finding, short, table, thousands
from recipes.experiments.tuning_runs import (
    HELDOUT,
    Course,
    Run,
    World,
    best,
    best_so_far,
    bracketed,
    complete,
    course,
    drawn,
    known,
    mean_and_error,
    over_seeds,
    result_of,
    unpacked,
)
from recipes.training.trainable import Labels
from rewards import ClipScore, Decoded, Reward, SceneAccuracy, from_signed, load_clip
from steer.data.scenes import scene_captions, score
from steer.plots.mosaic import mosaic
from steer.samplers import Jump, Sampler
from steer.tilt import Tilt
from steer.tuning import (
    Direct,
    FlowMapGrpo,
    MeanFlowNft,
    RewardWeighted,
    TuningObjective,
    WassersteinTilt,
)

MAP, STEER_BY, JUDGE_BY = "scenes", "scenes-clip", "scenes-clip-judge"
WEIGHTS = tuple(name for name in (MAP, STEER_BY, JUDGE_BY) if name in shipped())
SHAPE = (3, 32, 32)
SEEDS = (0, 1)
BUDGET = 12000.0
TUNED_ON = ("train", 512, 31)  # split, captions, seed
CHOSEN_ON, SHOWN_ON = ("heldout", 40, 32), ("heldout", 50, 33)
PARTICLES = 2
LIMITS = (2e-5, 1e-1)
CLIP, READER = "by the CLIP", "by the reader"
ENDS: dict[str, Sampler] = {"4 jumps": Jump(4, max_batch=128)}
READ, JUDGED = f"shown_{HELDOUT}", "shown_heldout_reward_2_mean"
FIGURES = (READ, JUDGED, "shown_reward_mean", "shown_diversity")
WORDS = ("reader's accuracy", "other CLIP", "tuned reward", "diversity")


@dataclass(frozen=True)
class Method:
    """An objective, what it is tuned by, and its settings.

    Attributes:
        objective: builds one.
        by: CLIP or READER.
        scale: of the reward.
        batch: samples of an update, or of a collection.
        rates: to begin with.
    """

    objective: Callable[[], TuningObjective]
    by: str
    scale: float
    batch: int = 32
    rates: Sequence[float] = (2e-4, 6e-4, 2e-3)


def redrawn() -> TuningObjective:
    """Regression on samples that are redrawn by reward, in rounds."""
    return RewardWeighted(redrawn=32, reuse=24, off_weight=2.0)


METHODS = {
    "Direct, 1 jump": Method(lambda: Direct(penalty=0.002, share=0.25), CLIP, 60.0),
    "WassersteinTilt": Method(lambda: WassersteinTilt(), CLIP, 60.0),
    "RewardWeighted": Method(redrawn, CLIP, 60.0, 256),
    "FlowMapGrpo": Method(lambda: FlowMapGrpo(reuse=2), CLIP, 60.0, 48),
    "MeanFlowNft": Method(lambda: MeanFlowNft(reuse=2), CLIP, 60.0, 48),
    "RewardWeighted, reader": Method(redrawn, READER, 4.0, 256),
    "FlowMapGrpo, reader": Method(lambda: FlowMapGrpo(reuse=2), READER, 4.0, 48),
    "MeanFlowNft, reader": Method(lambda: MeanFlowNft(reuse=2), READER, 4.0, 48),
}


# --- a run --------------------------------------------------------------------------------------
@cache
def clip_score(name: str) -> Reward:
    """The score of a shipped CLIP, of samples in [-1, 1]."""
    return Decoded(ClipScore(name), from_signed)


def reader() -> Reward:
    """1 for a sample that shows what its caption says, 0 for others."""
    return Decoded(SceneAccuracy(score), from_signed)


def reward_by(which: str) -> Reward:
    """What is tuned to."""
    return clip_score(STEER_BY) if which == CLIP else reader()


def world_of(looked_at: list[str]) -> World:
    """The map with captions of training to tune on, and these to look at."""
    return World(MAP, SHAPE, Labels(scene_captions(*TUNED_ON)), looked_at, PARTICLES)


def measure_of(own: Reward, captions: list[str]) -> Callable[[Tensor], Figures]:
    """The figures of samples of these captions."""
    heldout = (reader(), clip_score(JUDGE_BY))
    measure = Measure(own, heldout, load_clip(JUDGE_BY), from_signed, captions)
    return lambda x: known(measure(result_of(x)))


def measure_both(own: Reward) -> Callable[[Tensor], Figures]:
    """The figures of the captions to choose by, and, as shown_..., of those of the table."""
    chosen, shown = scene_captions(*CHOSEN_ON), scene_captions(*SHOWN_ON)
    by_chosen, by_shown = measure_of(own, chosen), measure_of(own, shown)

    def measured(x: Tensor) -> Figures:
        others = by_shown(x[len(chosen) :])
        return {**by_chosen(x[: len(chosen)]), **{f"shown_{k}": v for k, v in others.items()}}

    return measured


def tune(name: str, lr: float, captions: tuple[str, int, int], seed: int) -> Course:
    """The course of one run, looked at by the captions to choose by, or by both sets."""
    method = METHODS[name]
    only = captions == CHOSEN_ON
    looked_at = scene_captions(*CHOSEN_ON)
    if not only:
        looked_at = looked_at + scene_captions(*SHOWN_ON)
    world = world_of(looked_at)
    reward = reward_by(method.by)
    run = Run(
        method.objective(),
        Tilt(reward, method.scale),
        lr,
        method.batch,
        world=world,
        budget=BUDGET,
    )
    if only:
        return course(run, measure_of(reward, looked_at), seed, until=0.5)
    return course(run, measure_both(reward), seed, pictures=seed == SEEDS[0], ends=ENDS)


def levels() -> dict[str, Figures]:
    """The base's own figures on the captions that are shown."""
    captions = scene_captions(*CHOSEN_ON) + scene_captions(*SHOWN_ON)
    base = steer.load(MAP)
    measured = measure_both(clip_score(STEER_BY))
    samplers = {"1 jump": Jump(1), **ENDS}
    return {
        name: measured(drawn(base, sampler, captions, PARTICLES, SHAPE))
        for name, sampler in samplers.items()
    }


# --- reading the cells --------------------------------------------------------------------------
def key(name: str, lr: float, captions: tuple[str, int, int], seed: int) -> str:
    """The cell of a run."""
    return f"{name} lr={lr:g} captions={captions[2]} seed={seed}"


def chosen(name: str, found: Callable[[float], Course]) -> tuple[float, bool]:
    """The rate of a method, from its runs on the captions to choose by; whether bracketed."""
    return bracketed(METHODS[name].rates, lambda lr: best_so_far(found(lr)), LIMITS)


def rate_of(cells: Mapping[str, Any], name: str) -> tuple[float, bool]:
    """The same from what is kept."""
    return chosen(name, lambda lr: cells[key(name, lr, CHOSEN_ON, SEEDS[0])])


def courses(cells: Mapping[str, Any], name: str) -> list[Course]:
    """The runs of a method at its rate."""
    lr, _ = rate_of(cells, name)
    return [cells[key(name, lr, SHOWN_ON, seed)] for seed in SEEDS]


def measured(cells: Mapping[str, Any]) -> list[str]:
    """The methods that have been run."""
    return complete(cells, METHODS, courses)


# --- the page -----------------------------------------------------------------------------------
def results(cells: Mapping[str, Any]) -> str:
    """A row for each method, at its best look, below the base."""
    level = cells["levels"]
    base = ["the base", "", "", "", "", *(short(level["1 jump"][each]) for each in FIGURES)]
    rows = [[*base, short(level["4 jumps"][READ])]]
    for name in measured(cells):
        lr, inside = rate_of(cells, name)
        tops = [best(found) for found in courses(cells, name)]
        rows.append(
            [
                name.removesuffix(", reader"),
                METHODS[name].by,
                f"{lr:g}" + ("" if inside else " (end of the grid)"),
                thousands(sum(f["spent"] for f in tops) / len(tops)),
                thousands(sum(f["seconds"] for f in tops) / len(tops)),
                *(mean_and_error(f[each] for f in tops) for each in FIGURES),
                mean_and_error(f["ends"]["4 jumps"][READ] for f in tops),
            ]
        )
    head = ["method", "tuned", "rate", "evaluations", "seconds", *WORDS, "reader, 4 jumps"]
    return table(head, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The highest accuracy by either reward, and its diversity."""
    level = cells["levels"]["1 jump"]
    tops = {}
    for name in METHODS:
        looks = [best(found) for found in courses(cells, name)]
        tops[name] = {f: sum(look[f] for look in looks) / len(looks) for f in FIGURES}
    top = max(tops, key=lambda name: tops[name][READ])
    share = tops[top]["shown_diversity"] / level["shown_diversity"]
    return [
        Finding(
            "Tuned, single jumps follow held-out captions, by the reader",
            ".9, with .7 of the base's diversity",
            f"{short(level[READ], 2)} to {short(tops[top][READ], 2)}, diversity"
            f" {short(share, 2)} of the base's ({top})",
            tops[top][READ] >= 0.9 and share >= 0.7,
        )
    ]


def draw(cells: Mapping[str, Any]) -> None:
    """Draws accuracy and the other CLIP against spending and seconds, and samples beneath."""
    names = measured(cells)
    figure = Figure(figsize=(17, 4.6 + 1.5 * -(-len(names) // 4)), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[4.6, 1.5 * max(-(-len(names) // 4), 1)])
    above, beneath = parts
    panels = (("spent", READ), ("seconds", READ), ("spent", JUDGED), ("spent", FIGURES[-1]))
    level = cells["levels"]["1 jump"]
    for ax, (across, up) in zip(above.subplots(1, 4), panels, strict=True):
        for name in names:
            curve(ax, courses(cells, name), across, up, name)
        ax.axhline(level[up], color="0.4", linestyle=":")
        ax.set_xlabel("forward-equivalents" if across == "spent" else "seconds")
        ax.set_ylabel(WORDS[FIGURES.index(up)])
    handles, labels = above.axes[0].get_legend_handles_labels()
    if handles:
        above.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    for ax in beneath.subplots(-(-len(names) // 4) or 1, 4, squeeze=False).flat:
        ax.axis("off")
    for ax, name in zip(beneath.axes, names, strict=False):
        samples(ax, courses(cells, name)[0], name)
    figure.savefig(FOLDER / "scenes_tuning.png", dpi=120)


def curve(ax: Axes, runs: list[Course], across: str, up: str, name: str) -> None:
    """Draws the mean of a figure over the runs."""
    spent, values = over_seeds(runs, up)
    x = spent if across == "spent" else over_seeds(runs, across)[1]
    line = "-" if METHODS[name].by == CLIP else "--"
    ax.plot(x, values, line, color=colour(name), marker="o", markersize=3, label=name)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def colour(name: str) -> str:
    """The colour of an objective, whatever it is tuned by."""
    objectives = list(dict.fromkeys(each.removesuffix(", reader") for each in METHODS))
    return f"C{objectives.index(name.removesuffix(', reader'))}"


def samples(ax: Axes, found: Course, name: str) -> None:
    """Draws samples of the start and of the best look, a row each."""
    images = torch.stack([unpacked(f["pictures"], SHAPE) for f in (found[0], best(found))])
    ax.imshow(mosaic(images, 64), interpolation="nearest")
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([32, 100], ["start", "best look"], fontsize=8)
    ax.set_title(name, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    cells = Cells("scenes_tuning", WEIGHTS)
    with torch.no_grad():
        cells.get("levels", levels)

    def run(name: str, captions: tuple[str, int, int], seed: int, lr: float) -> Course:
        return cells.get(key(name, lr, captions, seed), partial(tune, name, lr, captions, seed))

    for name in METHODS:
        lr, _ = chosen(name, partial(run, name, CHOSEN_ON, SEEDS[0]))
        for seed in SEEDS:
            run(name, SHOWN_ON, seed, lr)
        draw(cells.cells)
    cells.prune()
    print(results(cells.cells))


if __name__ == "__main__":
    main()
