"""Tuning by rewards without a gradient: small JPEG files, and a function that counts.

    python -m recipes.experiments.fashion_black_box   # hours on one core; it goes on where it was

The counting function is a user's own: how many bright pieces the middle row of a picture is cut
into, which should be three, as of a pullover whose sleeves hang free. Its held-out reward counts in
other rows at another threshold; that of JPEG size is the size after zlib. The untold map is tuned
by every objective that needs no gradient, for 8000 forward-equivalents each. Its rate is that of
the highest held-out reward so far, averaged over the looks of the first half, on a third reward
(the left half brighter, likewise without its gradient), from a grid that is extended while the best
is at its end. Two seeds.

Drift is the Frechet distance to the base's own samples in the judge's features. Maximisers need not
stop where an exact tilt does: compare rewards at equal drift. Levels: the base, as many more of its
samples, and the best of 16 of them, which pays 16 evaluations for every sample it draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.evaluation.metrics import Figures, Measure
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.fashion_steering import JUDGE_BY
from recipes.experiments.findings import Finding, short, table, thousands
from recipes.experiments.tuning_runs import (
    BUDGET,
    HELDOUT,
    SHAPE,
    Course,
    Distance,
    Run,
    best_so_far,
    bracketed,
    complete,
    course,
    known,
    mean_and_error,
    over_seeds,
    packed,
    result_of,
    unpacked,
)
from rewards import (
    Decoded,
    DeflatedSize,
    FunctionReward,
    JpegSize,
    LeftBrighter,
    LeftLit,
    from_signed,
    load_classifier,
)
from steer.plots.mosaic import mosaic
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.tuning import (
    AdvantageWeightedMatching,
    DiffusionNft,
    FlowMapGrpo,
    MeanFlowNft,
    MetaFlowMap,
    ReinforceAdjointMatching,
    RewardWeighted,
    TiltMatching,
    TuningObjective,
)

WEIGHTS = ("fashion", JUDGE_BY)
SEEDS = (0, 1)
CANDIDATES = 16
LEVEL_SAMPLES = 200  # of the levels, each from CANDIDATES
REWARD, DRIFT = "reward_mean", "drift"
EXACT = "RewardWeighted, redrawn"
LIMITS = (2e-5, 1.0)


# --- the user's own reward ----------------------------------------------------------------------
def pieces(images: Float[Tensor, "b 1 h w"], row: int, threshold: float) -> Float[Tensor, "b"]:
    """Counts the bright pieces that a row of each image is cut into."""
    lit = torch.nn.functional.pad(images[:, 0, row] > threshold, (1, 0))
    return (lit[:, 1:] & ~lit[:, :-1]).sum(1).to(images)


def three_pieces(images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b"]:
    """How far the middle row is from three pieces: a body and two sleeves."""
    return -(pieces(images, 16, 0.25) - 3).abs()


def three_elsewhere(images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b"]:
    """The same of two rows nearby, at another threshold."""
    counts = torch.stack([pieces(images, row, 0.4) for row in (14, 18)])
    return -(counts - 3).abs().mean(0)


# --- what is tuned to, and by what --------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """A reward of images without a gradient, its held-out reward and its scale."""

    reward: Callable[[Tensor], Tensor]
    heldout: Callable[[Tensor], Tensor]
    scale: float

    def tilt(self) -> Tilt:
        """The tilt of samples in [-1, 1]."""
        return Tilt(Decoded(FunctionReward(self.reward, False), from_signed), self.scale)


JPEG, COUNT, LEFT = "small JPEG files", "three pieces", "left half brighter"
PROBLEMS = {
    JPEG: Problem(JpegSize(), DeflatedSize(), 30.0),
    COUNT: Problem(three_pieces, three_elsewhere, 4.0),
    LEFT: Problem(LeftBrighter(), LeftLit(), 40.0),
}
SHOWN = (JPEG, COUNT)
CHOSEN_ON = LEFT


@dataclass(frozen=True)
class Method:
    """An objective with its batch, and the rates to begin with."""

    objective: Callable[[], TuningObjective]
    batch: int = 32
    rates: Sequence[float] = field(default=(6e-4, 2e-3, 6e-3))


METHODS = {
    EXACT: Method(lambda: RewardWeighted(redrawn=32, reuse=10**6, off_weight=2.0), batch=512),
    "MetaFlowMap, no gradient": Method(lambda: MetaFlowMap(gradient="never", reuse=2), batch=48),
    "TiltMatching": Method(lambda: TiltMatching(noisings=1, round_steps=6, reuse=2), batch=48),
    "ReinforceAdjointMatching": Method(lambda: ReinforceAdjointMatching(noisings=2, reuse=2)),
    "DiffusionNft": Method(lambda: DiffusionNft(reuse=2)),
    "MeanFlowNft": Method(lambda: MeanFlowNft(reuse=2)),
    "AdvantageWeightedMatching": Method(lambda: AdvantageWeightedMatching(reuse=2)),
    "FlowMapGrpo": Method(lambda: FlowMapGrpo(reuse=2)),
}


def measure_of(problem: Problem) -> Callable[[Tensor], Figures]:
    """The figures of samples; drift is from draws of the base with noise of their own."""
    judge = load_classifier(JUDGE_BY)
    heldout = Decoded(FunctionReward(problem.heldout, False), from_signed)
    measure = Measure(problem.tilt().reward, (heldout,), judge, from_signed, None)
    drift = Distance(judge, base_images(1000, 7))

    def measured(x: Tensor) -> Figures:
        return {**known(measure(result_of(x))), DRIFT: drift(from_signed(x)[0])}

    return measured


@cache
def base_images(n: int, seed: int) -> Float[Tensor, "n 1 28 28"]:
    """Draws images of the untold base by single jumps."""
    x0 = torch.randn(1, n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    x = Jump(1, max_batch=200)(steer.load("fashion"), x0, None, None).x
    return from_signed(x[0]).clamp(0, 1)


def tune(name: str, lr: float, on: str, seed: int) -> Course:
    """The course of one run."""
    method = METHODS[name]
    run = Run(method.objective(), PROBLEMS[on].tilt(), lr, method.batch)
    pictures = on in SHOWN and seed == SEEDS[0]
    until = 0.5 if on == CHOSEN_ON else 1.0
    return course(run, measure_of(PROBLEMS[on]), seed, pictures, until)


def levels(on: str) -> dict[str, Any]:
    """The figures of the base's samples, and of the best of CANDIDATES each by the reward."""
    problem = PROBLEMS[on]
    measured = measure_of(problem)
    images = base_images(LEVEL_SAMPLES * CANDIDATES, 8).view(LEVEL_SAMPLES, CANDIDATES, *SHAPE)
    rewards = problem.reward(images.flatten(0, 1)).view(LEVEL_SAMPLES, CANDIDATES)
    top = images[torch.arange(LEVEL_SAMPLES), rewards.argmax(1)]
    found = {}
    for name, x in (("base", images[:, 0]), ("best", top)):
        found[name] = {**measured((2 * x - 1)[None]), "pictures": packed(x[:8])}
    return found


# --- reading the cells --------------------------------------------------------------------------
def key(name: str, lr: float, on: str, seed: int) -> str:
    """The cell of a run."""
    return f"{name} lr={lr:g} {on} seed={seed}"


def chosen(name: str, found: Callable[[float], Course]) -> tuple[float, bool]:
    """The rate of a method, from its runs on the reward to choose by; whether bracketed."""
    return bracketed(METHODS[name].rates, lambda lr: best_so_far(found(lr)), LIMITS)


def rate_of(cells: Mapping[str, Any], name: str) -> tuple[float, bool]:
    """The same from what is kept."""
    return chosen(name, lambda lr: cells[key(name, lr, CHOSEN_ON, SEEDS[0])])


def courses(cells: Mapping[str, Any], name: str, on: str) -> list[Course]:
    """The runs of a method at its rate."""
    lr, _ = rate_of(cells, name)
    return [cells[key(name, lr, on, seed)] for seed in SEEDS]


def measured_on(cells: Mapping[str, Any], on: str) -> list[str]:
    """The methods that have been run."""
    return complete(cells, METHODS, lambda cells, name: courses(cells, name, on))


# --- the page -----------------------------------------------------------------------------------
FIGURES = (REWARD, HELDOUT, "diversity", DRIFT)
WORDS = ("reward", "held-out reward", "diversity", "drift")


def results(cells: Mapping[str, Any]) -> str:
    """A table for each reward: the end of each method's runs, below the levels."""
    return "\n\n".join(f"{on.capitalize()}:\n\n{table_of(cells, on)}" for on in SHOWN)


def table_of(cells: Mapping[str, Any], on: str) -> str:
    """A row for each method at the end of its runs."""
    level = cells[f"levels {on}"]
    rows = [
        [said, "", "", "", *(short(level[which][each]) for each in FIGURES)]
        for said, which in (("the base", "base"), (f"best of {CANDIDATES} of it", "best"))
    ]
    for name in measured_on(cells, on):
        lr, inside = rate_of(cells, name)
        ends = [found[-1] for found in courses(cells, name, on)]
        rows.append(
            [
                name,
                METHODS[name].objective().claim,
                f"{lr:g}" + ("" if inside else " (end of the grid)"),
                thousands(sum(f["step"] for f in ends) / len(ends)),
                *(mean_and_error(f[which] for f in ends) for which in FIGURES),
            ]
        )
    return table(["method", "claim", "rate", "updates", *WORDS], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """How many methods pass best of N, that the held-out reward rises too, and the drift."""
    found = []
    for on in SHOWN:
        level = cells[f"levels {on}"]
        ends = {name: mean_of_ends(cells, name, on) for name in METHODS}
        above = [n for n, end in ends.items() if end[REWARD] >= level["best"][REWARD]]
        top = max(ends, key=lambda name: ends[name][REWARD])
        rise = ends[top][HELDOUT] - level["base"][HELDOUT]
        wanted = level["best"][HELDOUT] - level["base"][HELDOUT]
        found += [
            Finding(
                f"Tuned without a gradient to {on}: single samples as good as best of {CANDIDATES}",
                "by one method or more",
                f"{len(above)} of {len(METHODS)}: {', '.join(above) or 'none'}",
                bool(above),
            ),
            Finding(
                f"{on.capitalize()}: the held-out reward of the highest rises with it",
                f"as much as that of best of {CANDIDATES}",
                f"{rise:.2f} against {wanted:.2f} ({top})",
                rise >= wanted,
            ),
        ]
    return found


def mean_of_ends(cells: Mapping[str, Any], name: str, on: str) -> dict[str, float]:
    """The mean figures of a method's runs at their end."""
    ends = [each[-1] for each in courses(cells, name, on)]
    return {which: sum(f[which] for f in ends) / len(ends) for which in FIGURES}


# --- the picture --------------------------------------------------------------------------------
def draw(cells: Mapping[str, Any]) -> None:
    """Draws rewards against spending and against drift, and samples of the ends beneath."""
    figure = Figure(figsize=(15, 5.6 * len(SHOWN)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(SHOWN), 4, width_ratios=[1.15, 1.15, 1.15, 1], squeeze=False)
    panels = ((None, REWARD), (None, HELDOUT), (DRIFT, REWARD))
    for row, on in zip(axes, SHOWN, strict=True):
        level = cells[f"levels {on}"]
        for ax, (across, up) in zip(row, panels, strict=False):
            for name in measured_on(cells, on):
                runs = courses(cells, name, on)
                spent, values = over_seeds(runs, up)
                x = spent if across is None else over_seeds(runs, across)[1]
                ax.plot(x, values, color=colour(name), marker="o", markersize=3, label=name)
            if across is None:
                ax.axhline(level["best"][up], color="0.4", linestyle=":")
                ax.annotate(
                    f"best of {CANDIDATES} of the base",
                    (BUDGET, level["best"][up]),
                    ha="right",
                    va="bottom",
                    fontsize=8,
                    color="0.3",
                )
                ax.set_xlabel("forward-equivalents")
            else:
                ax.plot(level["best"][DRIFT], level["best"][up], "*", color="0.3", markersize=10)
                ax.set_xlabel("drift: Frechet distance to the base (star: best of 16)")
            ax.set_ylabel(f"{WORDS[FIGURES.index(up)]}: {on}")
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        ends(row[3], cells, on)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(FOLDER / "fashion_black_box.png", dpi=130)


def colour(name: str) -> str:
    """The colour of a method."""
    return f"C{list(METHODS).index(name)}"


def ends(ax: Any, cells: Mapping[str, Any], on: str) -> None:
    """Draws samples of the base, of the best of N and of each method's end."""
    level = cells[f"levels {on}"]
    rows = {"base": level["base"], f"best of {CANDIDATES}": level["best"]}
    for name in measured_on(cells, on):
        rows[name] = courses(cells, name, on)[0][-1]
    images = torch.stack([unpacked(figures["pictures"]) for figures in rows.values()])
    ax.imshow(mosaic(images, 56), interpolation="nearest")
    ax.set_yticks([60 * k + 28 for k in range(len(rows))], list(rows), fontsize=7)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    cells = Cells("fashion_black_box", WEIGHTS)
    for on in SHOWN:
        cells.get(f"levels {on}", partial(levels, on))

    def run(name: str, on: str, seed: int, lr: float) -> Course:
        return cells.get(key(name, lr, on, seed), partial(tune, name, lr, on, seed))

    for name in METHODS:
        lr, _ = chosen(name, partial(run, name, CHOSEN_ON, SEEDS[0]))
        for seed in SEEDS:
            for on in SHOWN:
                run(name, on, seed, lr)
        draw(cells.cells)
    cells.prune()
    print(results(cells.cells))


if __name__ == "__main__":
    main()
