"""The canvas of every picture: measured in pixels, one palette, two font sizes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DPI = 200  # a picture is shown at half its pixels: letters of 9 points come out as 12.5 CSS pixels
INK = "#20252b"
FAINT = "#68717d"
RULE = "#d9dde3"
BLUE = "#2b5c8a"
OCHRE = "#c0721d"
GREEN = "#4b7f52"
PLUM = "#7a4a77"
LETTERS = 9.0
SMALL = 8.0
STEPS = [1, 2, 2.5, 5, 10]


class Canvas:
    """A white figure of `width` x `height` pixels; positions are pixels from its top left corner.

    Images keep their pixels: nothing is interpolated.
    """

    def __init__(self, width: int, height: int):
        self.width = width
        self.height = height
        self.figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def lay(self, pixels: np.ndarray, left: int, top: int) -> None:
        """An image (H, W, 3) of bytes, its top left corner at (left, top)."""
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def write(
        self,
        words: str,
        left: float,
        top: float,
        size: float = LETTERS,
        colour: str = INK,
        ha: str = "left",
    ) -> None:
        """Text at a point, vertically centred; never parsed as TeX."""
        x = left / self.width
        y = 1 - top / self.height
        self.figure.text(
            x, y, words, fontsize=size, color=colour, ha=ha, va="center", parse_math=False
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes that fill a rectangle; see `dress` for curves."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def save(self, path: str | Path) -> None:
        self.figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})


def width_of(words: list[str], size: float = LETTERS) -> int:
    """The width in pixels of the longest of some strings; 0 without any."""
    figure = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn = [
        figure.text(0, 0, w, fontsize=size, parse_math=False).get_window_extent(renderer)
        for w in words
    ]
    return max((int(np.ceil(box.width)) for box in drawn), default=0)


def wrapped(labels: Sequence[str]) -> list[str]:
    """Labels in at most three short lines each, longer ones ending in an ellipsis."""
    return [textwrap.fill(label, 24, max_lines=3, placeholder=" …") for label in labels]


def dress(axes: Axes, title: str) -> Axes:
    """Axes for curves: a title at the left, a light grid across, no box."""
    axes.set_title(title, fontsize=LETTERS, color=INK, loc="left", pad=9, parse_math=False)
    axes.xaxis.label.set(fontsize=SMALL, color=FAINT)
    axes.tick_params(
        which="both", labelsize=SMALL, labelcolor=FAINT, color=RULE, length=3, width=0.6
    )
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    return axes


def write_numbers(axes: Axes) -> None:
    """Sets few ticks with plain numbers; the y axis ends at ticks, the x axis at the data."""
    across = apart(*axes.dataLim.intervalx)
    up = apart(*axes.dataLim.intervaly)
    wide = MaxNLocator(5, steps=STEPS).tick_values(*across)
    high = MaxNLocator(4, steps=STEPS).tick_values(*up)
    axes.set_xticks(wide, labels=written(wide))
    axes.set_yticks(high, labels=written(high))
    axes.set(xlim=across, ylim=(high[0], high[-1]))


def apart(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: widened around a single value, (0, 1) without any."""
    if low > high:
        return 0.0, 1.0
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def written(ticks: Sequence[float]) -> list[str]:
    """Tick labels in one unit with equally many decimals: 0.50 0.75 1.00, or 0 2.5k 5.0k."""
    most = np.abs(ticks).max()
    unit, letter = next(
        (u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if most >= max(u[0], 1e4)), (1.0, "")
    )
    steps = np.array(ticks) / unit
    decimals = next(
        (
            d
            for d in range(12)
            if np.allclose(steps.round(d), steps, rtol=0, atol=1e-3 * np.ptp(steps))
        ),
        12,
    )
    return [
        f"{v:.{decimals}f}{letter}".replace("-", "\u2212") if v else "0"
        for v in steps.round(decimals)
    ]
