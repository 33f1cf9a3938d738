"""Training curves: a panel for each logged quantity."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy.ndimage import gaussian_filter1d

from steer.plots.axes import (
    BLUE,
    FAINT,
    GREEN,
    OCHRE,
    PLUM,
    SMALL,
    Canvas,
    dress,
    write_numbers,
)

WIDTH = 1680
LEFT = 100
RIGHT = 30
HEAD = 64
FOOT = 80
APART = 110
ACROSS = 3
HEIGHT = 300
GROUPS = {"spent/": "evaluations spent", "identity/": "errors of the identities"}
COLOURS = (BLUE, OCHRE, GREEN, PLUM)
WIDTHS = (3.0, 2.2, 1.5, 0.8)

Curve = Mapping[int, float]


def training_curves(path: str | Path, logs: Mapping[str, Curve]) -> None:
    """Draws every logged quantity against the step, raw (pale) and smoothed.

    Each of GROUPS shares a panel.

    The smoothed line is a Gaussian average whose width is a hundredth of the number of points. A
    positive quantity that spans more than a factor of thirty has a logarithmic axis.

    Args:
        path: of the PNG.
        logs: name -> {step: value}, as `steer.loops.read_csv_log` returns.

    Raises:
        ValueError: nothing logged.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in logs.items():
        if curve:
            prefix = next((prefix for prefix in GROUPS if name.startswith(prefix)), "")
            panels.setdefault(GROUPS.get(prefix, name), {})[name.removeprefix(prefix)] = curve
    if not panels:
        raise ValueError("training_curves needs at least one logged quantity; got none")
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // ACROSS)
    width = (WIDTH - RIGHT - ACROSS * LEFT) // ACROSS
    canvas = Canvas(across * (width + LEFT) + RIGHT, HEAD + down * (HEIGHT + APART) - APART + FOOT)
    for i, (name, group) in enumerate(panels.items()):
        left = LEFT + i % ACROSS * (width + LEFT)
        top = HEAD + i // ACROSS * (HEIGHT + APART)
        axes = dress(canvas.axes(left, top, width, HEIGHT), name)
        draw(axes, group)
        axes.set_xlabel("step" if i + across >= len(panels) else "")
    canvas.save(path)


def draw(axes: Axes, group: Mapping[str, Curve]) -> None:
    """Draws a panel: one quantity raw and smoothed, or several with a legend, the first widest."""
    if len(group) > 1:
        for (name, curve), colour, width in zip(group.items(), COLOURS, WIDTHS, strict=False):
            label = name.replace("_", " ")
            dot = "o" if len(curve) == 1 else None
            axes.plot(
                list(curve),
                list(curve.values()),
                color=colour,
                linewidth=width,
                marker=dot,
                label=label,
            )
        axes.legend(
            fontsize=SMALL,
            labelcolor=FAINT,
            frameon=False,
            handlelength=1.2,
            borderpad=0,
            loc="best",
        )
        write_numbers(axes)
        return stretch(axes, np.concatenate([list(curve.values()) for curve in group.values()]))
    (curve,) = group.values()
    steps = np.array(list(curve))
    values = np.array(list(curve.values()))
    axes.plot(steps, values, color=BLUE, linewidth=0.6, alpha=0.35)
    axes.plot(
        steps,
        gaussian_filter1d(values, max(len(values) / 100, 0.1)),
        color=BLUE,
        linewidth=1.5,
        clip_on=False,
    )
    if len(curve) == 1:
        axes.plot(steps, values, "o", color=BLUE, markersize=4)
    write_numbers(axes)
    stretch(axes, values)


def stretch(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for what spans a large factor."""
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.autoscale(axis="y")
