"""Remedies against reward hacking: strengths chosen on one task, runs shown on another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.evaluation import collapse
from recipes.evaluation.metrics import Figures
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.tuning_runs import (
    Course,
    Run,
    best,
    bracketed,
    complete,
    held_late,
    over_seeds,
    unpacked,
    until_stopped,
)
from steer.plots.mosaic import GAP, mosaic

COLUMNS = 4  # of the picture
SHORT = {  # of the report's warnings
    "the held-out reward fell": "held-out fell",
    "the Frechet distance to the reference rose": "distance rose",
    "the samples do not look like the reference": "far from real",
}
Task = TypeVar("Task")  # what is tuned to: a class, or captions


@dataclass(frozen=True)
class Remedy(Generic[Task]):
    """A way to tune, with the strengths to choose from.

    Attributes:
        run: run(strength, task).
        word: what the strength is; empty if there is nothing to choose.
        grid: strengths to begin with.
        limits: the least and the greatest.
    """

    run: Callable[[float, Task], Run]
    word: str = ""
    grid: tuple[float, ...] = (1.0,)
    limits: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Remedies(Generic[Task]):
    """Runs of tuning that are pushed too far, with one remedy each.

    A remedy's strength is that of the highest held-out reward over the second half of a run on the
    task to choose by. A stop by the held-out reward is read off the runs without a remedy.

    Attributes:
        of: the remedies by name.
        unremedied: the name of the run without one.
        stopped: the name of the stop.
        tune: tune(name, strength, task, seed) -> the course of a run.
        chosen_on: the task that strengths are chosen on.
        shown_on: the task of table and picture.
        seeds: of the runs that are shown; the choice takes the first.
        names: names(task) -> how the key of a cell names it.
    """

    of: Mapping[str, Remedy[Task]]
    unremedied: str
    stopped: str
    tune: Callable[[str, float, Task, int], Course]
    chosen_on: Task
    shown_on: Task
    seeds: tuple[int, ...]
    names: Callable[[Task], str]

    @property
    def all(self) -> tuple[str, ...]:
        """The names of the remedies, and of the stop."""
        return (*self.of, self.stopped)

    # --- running --------------------------------------------------------------------------------
    def measure(self, cells: Cells, look: Callable[[Mapping[str, Any]], None]) -> None:
        """Run what is not kept yet, and look at the cells after each remedy."""
        for name in self.of:
            run = partial(self.run, cells, name)
            strength, _ = self.chosen(name, partial(run, self.chosen_on, self.seeds[0]))
            if name == self.unremedied:
                run(self.chosen_on, self.seeds[0], strength)
            for seed in self.seeds:
                run(self.shown_on, seed, strength)
            look(cells.cells)

    def run(self, cells: Cells, name: str, task: Task, seed: int, strength: float) -> Course:
        """One run, or what is kept of it."""
        key = self.key(name, strength, task, seed)
        return cells.get(key, partial(self.tune, name, strength, task, seed))

    def key(self, name: str, strength: float, task: Task, seed: int) -> str:
        """The cell of a run."""
        word = self.of[name].word
        setting = f" {word}={strength:g}" if word else ""
        return f"{name}{setting} {self.names(task)} seed={seed}"

    def chosen(self, name: str, found: Callable[[float], Course]) -> tuple[float, bool]:
        """The strength of a remedy, from its runs on the task to choose by; whether bracketed."""
        remedy = self.of[name]
        if not remedy.word:
            return remedy.grid[0], True
        return bracketed(remedy.grid, lambda strength: held_late(found(strength)), remedy.limits)

    # --- reading what is kept -------------------------------------------------------------------
    def strength(self, cells: Mapping[str, Any], name: str) -> tuple[float, bool]:
        """The chosen strength, and whether it is bracketed."""
        return self.chosen(
            name, lambda strength: cells[self.key(name, strength, self.chosen_on, self.seeds[0])]
        )

    def strength_shown(self, cells: Mapping[str, Any], name: str) -> str:
        """The strength in words, and whether it is at an end of what was tried."""
        if name == self.stopped or not self.of[name].word:
            return ""
        strength, inside = self.strength(cells, name)
        return f"{self.of[name].word} {strength:g}" + ("" if inside else " (end of the grid)")

    def courses(self, cells: Mapping[str, Any], name: str) -> list[Course]:
        """The runs that are shown; those of the stop, up to it."""
        if name == self.stopped:
            return [until_stopped(found) for found in self.courses(cells, self.unremedied)]
        strength, _ = self.strength(cells, name)
        return [cells[self.key(name, strength, self.shown_on, seed)] for seed in self.seeds]

    def measured(self, cells: Mapping[str, Any]) -> list[str]:
        """The names of what has been run."""
        return complete(cells, self.all, self.courses)

    def kept(self, name: str, found: Course) -> Figures:
        """What a run leaves: its end, or its best look where that is kept."""
        return best(found) if name == self.stopped else found[-1]

    def warnings(self, name: str, found: Course, floor: float | None = None) -> list[str]:
        """What the report of `steer tune` says to a run, in short.

        Args:
            name: of the remedy.
            found: the course of the run.
            floor: the Frechet distance of as many real images, where there is one.
        """
        left = self.kept(name, found)
        said = collapse.signs([*(f for f in found if f["step"] < left["step"]), left], floor)
        return [next(word for start, word in SHORT.items() if s.startswith(start)) for s in said]

    # --- the picture ----------------------------------------------------------------------------
    def figure(
        self,
        cells: Mapping[str, Any],
        curves: Callable[[Axes, str], None],
        shape: tuple[int, ...],
        width: int,
    ) -> Figure:
        """A panel of curves for each remedy, and beneath it samples of start, best look and end.

        Args:
            cells: what is kept.
            curves: curves(ax, name) draws a panel.
            shape: of a sample.
            width: of a sample, in pixels.
        """
        names = self.measured(cells)
        down = -(-len(names) // COLUMNS)
        figure = Figure(figsize=(4.2 * COLUMNS, 5.0 * down), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2 * down, COLUMNS, height_ratios=[2.6, 1.55] * down, squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for k, name in enumerate(names):
            row, column = divmod(k, COLUMNS)
            panel = axes[2 * row][column]
            panel.axis("on")
            curves(panel, name)
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            self.samples(axes[2 * row + 1][column], cells, name, shape, width)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return figure

    def samples(
        self, ax: Axes, cells: Mapping[str, Any], name: str, shape: tuple[int, ...], width: int
    ) -> None:
        """Draw samples of the first seed: start, best look and what is kept, a row each."""
        found = self.courses(cells, name)[0]
        start, top, end = found[0], best(found), self.kept(name, found)
        rows = [unpacked(figures["pictures"], shape) for figures in (start, top, end)]
        ax.imshow(mosaic(torch.stack(rows), width), interpolation="nearest", aspect="equal")
        ax.axis("on")
        ax.set_xticks([])
        places = [(width + GAP) * k + width / 2 for k in range(3)]
        ax.set_yticks(places, ["start", "best look", "kept"], fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)


def draw_courses(ax: Axes, found: list[Course], which: str, colour: str, label: str) -> None:
    """Draw a figure of runs against spending, each thinly and their mean."""
    for each in found:
        looks = [f["spent"] for f in each]
        ax.plot(looks, [f[which] for f in each], color=colour, alpha=0.35, linewidth=1)
    spent, values = over_seeds(found, which)
    ax.plot(spent, values, color=colour, linewidth=2.2, label=label)
    ax.set_xlabel("forward-equivalents", fontsize=8)


def save(figure: Figure, name: str) -> None:
    """Write the picture of an experiment."""
    figure.savefig(FOLDER / f"{name}.png", dpi=130)
