"""The error of log Z against the step size, and extrapolated to step zero, for each world."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from steer.plots.axes import BLUE, FAINT, OCHRE, Canvas, dress, write_numbers

WIDTH = 1600
LEFT = 120
RIGHT = 40
HEAD = 60
FOOT = 84
APART = 120
COLUMNS = 2
HEIGHT = 260


def step_errors(path: str | Path, worlds: Mapping[str, Mapping[str, Any]]) -> int:
    """Draws the worlds with log Z at two step sizes or more, and returns how many.

    Writes no file without any.

    Args:
        path: of the PNG.
        worlds: by name, "sizes" (each with "steps", "log_z_error", "log_z_std_error") and the last
            two at step zero.
    """
    shown = {
        n: w
        for n, w in worlds.items()
        if len(w["sizes"]) > 1 and w["log_z_error"] == w["log_z_error"]
    }
    if not shown:
        return 0
    rows = -(-len(shown) // COLUMNS)
    wide = (WIDTH - RIGHT - LEFT * COLUMNS) // COLUMNS
    canvas = Canvas(WIDTH, HEAD + rows * (HEIGHT + APART) - APART + FOOT)
    for i, (name, world) in enumerate(shown.items()):
        row, column = divmod(i, COLUMNS)
        axes = canvas.axes(
            LEFT + column * (wide + LEFT), HEAD + row * (HEIGHT + APART), wide, HEIGHT
        )
        panel(dress(axes, name), world, last=i + COLUMNS >= len(shown))
    canvas.save(path)
    return len(shown)


def panel(axes: Axes, world: Mapping[str, Any], last: bool) -> None:
    """One world: the sizes in blue, step zero in ochre, one standard error up and down."""
    bars: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.2, "capsize": 2.5}
    sizes = world["sizes"]
    steps, errors, noise = (
        [one[key] for one in sizes] for key in ("steps", "log_z_error", "log_z_std_error")
    )
    axes.errorbar([1 / n for n in steps], errors, noise, color=BLUE, **bars)
    axes.errorbar([0], [world["log_z_error"]], [world["log_z_std_error"]], color=OCHRE, **bars)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    write_numbers(axes)
    ends = max(1 / n for n in steps)
    axes.set(xlim=(-0.05 * ends, 1.05 * ends), xlabel="step" if last else "")
    axes.set_xticks([0, *(1 / n for n in steps)], labels=["0", *(f"1/{n}" for n in steps)])
