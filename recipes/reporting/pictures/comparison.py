"""Several methods at several costs: a small panel for each figure, the same colour and mark for a
method in all of them.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from recipes.reporting.pictures.axes import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    OCHRE,
    PLUM,
    SMALL,
    Paper,
    dress,
    width_of,
    write_numbers,
)

WIDTH, LEFT, RIGHT, HEAD, FOOT, APART, HEIGHT, LINE = 1800, 110, 40, 96, 84, 130, 400, 44
LOOKS = tuple(
    zip((BLUE, OCHRE, GREEN, PLUM, "#b03a48", "#2f8f9d", "#8a7a2f", INK), "osD^vPX*", strict=True)
)
LEVEL: dict[str, Any] = {"color": FAINT, "linewidth": 0.9, "linestyle": (0, (4, 3))}


class Point(NamedTuple):
    """A cost, a figure, and its standard error, NaN if that is not known."""

    cost: float
    figure: float
    error: float


Panel = Mapping[str, Sequence[Point]]  # the points of each method
Look = Mapping[str, Any]


def cost_curves(
    path: str | Path,
    panels: Mapping[str, Panel],
    across: str,
    ticks: Sequence[float],
    levels: Mapping[str, float] | None = None,
    level_name: str = "exact draws",
    distances: Collection[str] = (),
) -> None:
    """Draws every figure against the cost, which has a logarithmic axis, with bars of one standard
    error.

    The legend has a strip of its own above the panels.

    Args:
        path: of the PNG.
        panels: title -> the points of each method.
        across: what the cost is called.
        ticks: the costs to write at the axis.
        levels: title -> a level to draw across the panel.
        level_name: what the levels are called.
        distances: titles of the panels that get a logarithmic axis upwards too, where what they
            show is positive.

    Raises:
        ValueError: no point at all.
    """
    methods = list(
        dict.fromkeys(name for panel in panels.values() for name, points in panel.items() if points)
    )
    if not methods:
        raise ValueError("cost_curves needs a panel with at least one point; got none")
    looks = {name: look(i) for i, name in enumerate(methods)} | (
        {level_name: LEVEL} if levels else {}
    )
    fit = max((WIDTH - LEFT) // (width_of(list(looks), SMALL) + 130), 1)  # names beside each other
    head = HEAD + LINE * -(-len(looks) // fit)
    beside = 2 if len(panels) in (1, 2, 4) else 3
    width, down = WIDTH // beside - LEFT - RIGHT, -(-len(panels) // beside)
    paper = Paper(WIDTH, head + down * (HEIGHT + APART) - APART + FOOT)
    key(paper, looks, fit)
    for i, (title, panel) in enumerate(panels.items()):
        left, top = LEFT + i % beside * WIDTH // beside, head + i // beside * (HEIGHT + APART)
        axes = dress(paper.axes(left, top, width, HEIGHT), title)
        draw(axes, panel, looks, (levels or {}).get(title), title in distances)
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
        axes.tick_params(axis="x", which="minor", length=0)
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel(across if i + beside >= len(panels) else "")
    paper.save(path)


def look(i: int) -> Look:
    """How the i-th method is drawn: eight colours and marks, then the same dashed."""
    colour, mark = LOOKS[i % len(LOOKS)]
    style = "-" if i < len(LOOKS) else (0, (4, 2))
    return {
        "color": colour,
        "marker": mark,
        "linestyle": style,
        "linewidth": 1.3,
        "markersize": 4.5,
    }


def key(paper: Paper, looks: Mapping[str, Look], columns: int) -> None:
    """The names, in rows above the panels."""
    pitch = (paper.width - LEFT) // columns
    for i, (name, how) in enumerate(looks.items()):
        left, top = LEFT + i % columns * pitch, LINE * (i // columns) + LINE
        x, y = np.array([left - 30, left + 5, left + 40]) / paper.width, 1 - top / paper.height
        paper.figure.add_artist(Line2D(x, [y] * 3, markevery=[1], **how))
        paper.write(name, left + 54, top, SMALL)


def draw(
    axes: Axes, panel: Panel, looks: Mapping[str, Look], level: float | None, distance: bool
) -> None:
    """One panel."""
    for name, points in panel.items():
        if points:
            cost, figure, error = np.array(points, dtype=float).T
            bars = np.where(np.isfinite(error), error, 0.0)
            axes.errorbar(
                cost,
                figure,
                bars,
                capsize=2.5,
                elinewidth=0.9,
                capthick=0.9,
                clip_on=False,
                **looks[name],
            )
    if level is not None:
        axes.axhline(level, **LEVEL)
    write_numbers(axes)
    low, high = axes.dataLim.intervalx
    axes.set_xlim(low / 1.12, high * 1.12)
    figures = [point.figure for points in panel.values() for point in points]
    if distance and min(figures) > 0:
        axes.set_yscale("log")
        axes.autoscale(axis="y")
        low, high = axes.get_ylim()
        ticks = [
            m * 10.0**k for k in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**k <= high
        ]
        axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.tick_params(axis="y", which="minor", labelleft=False)
