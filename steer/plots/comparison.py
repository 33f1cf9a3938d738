"""Metrics of several methods against their cost, a panel for each metric."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from steer.plots.axes import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    OCHRE,
    PLUM,
    SMALL,
    Canvas,
    dress,
    width_of,
    write_numbers,
)

WIDTH = 1800
LEFT = 110
RIGHT = 40
HEAD = 96
FOOT = 84
APART = 130
HEIGHT = 400
LINE = 44
LOOKS = tuple(
    zip((BLUE, OCHRE, GREEN, PLUM, "#b03a48", "#2f8f9d", "#8a7a2f", INK), "osD^vPX*", strict=True)
)
LEVEL: dict[str, Any] = {"color": FAINT, "linewidth": 0.9, "linestyle": (0, (4, 3))}


class Point(NamedTuple):
    """A cost, a metric, and its standard error, NaN if that is unknown."""

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
    """Draws every metric against the cost, on a logarithmic axis, with bars of one standard error.

    The legend is above the panels.

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
    width = WIDTH // beside - LEFT - RIGHT
    down = -(-len(panels) // beside)
    canvas = Canvas(WIDTH, head + down * (HEIGHT + APART) - APART + FOOT)
    key(canvas, looks, fit)
    for i, (title, panel) in enumerate(panels.items()):
        left = LEFT + i % beside * WIDTH // beside
        top = head + i // beside * (HEIGHT + APART)
        axes = dress(canvas.axes(left, top, width, HEIGHT), title)
        draw(axes, panel, looks, (levels or {}).get(title), title in distances)
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
        axes.tick_params(axis="x", which="minor", length=0)
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel(across if i + beside >= len(panels) else "")
    canvas.save(path)


def look(i: int) -> Look:
    """The style of the i-th method: eight colours and marks, then the same dashed."""
    colour, mark = LOOKS[i % len(LOOKS)]
    style = "-" if i < len(LOOKS) else (0, (4, 2))
    return {
        "color": colour,
        "marker": mark,
        "linestyle": style,
        "linewidth": 1.3,
        "markersize": 4.5,
    }


def key(canvas: Canvas, looks: Mapping[str, Look], columns: int) -> None:
    """Draws the legend, in rows above the panels."""
    pitch = (canvas.width - LEFT) // columns
    for i, (name, how) in enumerate(looks.items()):
        left = LEFT + i % columns * pitch
        top = LINE * (i // columns) + LINE
        x = np.array([left - 30, left + 5, left + 40]) / canvas.width
        y = 1 - top / canvas.height
        canvas.figure.add_artist(Line2D(x, [y] * 3, markevery=[1], **how))
        canvas.write(name, left + 54, top, SMALL)


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
