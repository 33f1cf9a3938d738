"""The course of a training or tuning run: a small panel for each logged quantity."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy.ndimage import gaussian_filter1d

from recipes.reporting.pictures.axes import (
    BLUE,
    FAINT,
    GREEN,
    OCHRE,
    PLUM,
    SMALL,
    Paper,
    dress,
    write_numbers,
)

WIDTH, LEFT, RIGHT, HEAD, FOOT, APART, ACROSS, HEIGHT = 1680, 100, 30, 64, 80, 110, 3, 300
GROUPS = {"spent/": "evaluations spent", "identity/": "how far from its identities"}
COLOURS, WIDTHS = (BLUE, OCHRE, GREEN, PLUM), (3.0, 2.2, 1.5, 0.8)

Curve = Mapping[int, float]


def training_curves(path: str | Path, logs: Mapping[str, Curve]) -> None:
    """Draws every logged quantity against the step, as it is (pale) and smoothed; each of GROUPS
    shares a panel.

    The smoothed line is a Gaussian average, a hundredth of the points wide to each side. A positive
    quantity that spans more than a factor of thirty has a logarithmic axis.

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
    across, down = min(len(panels), ACROSS), -(-len(panels) // ACROSS)
    width = (WIDTH - RIGHT - ACROSS * LEFT) // ACROSS
    paper = Paper(across * (width + LEFT) + RIGHT, HEAD + down * (HEIGHT + APART) - APART + FOOT)
    for i, (name, group) in enumerate(panels.items()):
        left, top = LEFT + i % ACROSS * (width + LEFT), HEAD + i // ACROSS * (HEIGHT + APART)
        axes = dress(paper.axes(left, top, width, HEIGHT), name)
        draw(axes, group)
        axes.set_xlabel("step" if i + across >= len(panels) else "")
    paper.save(path)


def draw(axes: Axes, group: Mapping[str, Curve]) -> None:
    """One panel: a quantity raw and smoothed, or several with their names, the first drawn widest
    lest it be hidden.
    """
    if len(group) > 1:
        for (name, curve), colour, width in zip(group.items(), COLOURS, WIDTHS, strict=False):
            label, dot = name.replace("_", " "), "o" if len(curve) == 1 else None
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
    steps, values = np.array(list(curve)), np.array(list(curve.values()))
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
