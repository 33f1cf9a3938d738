"""Point clouds in the plane, with the regions of highest density of a target law."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.ndimage import gaussian_filter
from torch import Tensor

from steer.plots.axes import BLUE, FAINT, INK, LETTERS, OCHRE, RULE, SMALL, Canvas

PANEL = 620
MARGIN = 70
RIGHT = 24
APART = 28
HEAD = 56
FOOT = 60
KEY = 24
MASSES = (0.9, 0.5)


class Cloud(NamedTuple):
    """Points (M, 2) under a title, with weights (M,) or equal ones.

    A point's area grows with its weight.
    """

    title: str
    points: Tensor
    weights: Tensor | None = None


class Window(NamedTuple):
    """The square that is drawn."""

    x: tuple[float, float]
    y: tuple[float, float]


def plane(path: str | Path, panels: Sequence[tuple], truth: Tensor | None = None) -> None:
    """Draws clouds of points side by side, equal axes and the same limits.

    The window holds the middle 99.8% of every cloud along each axis; points outside it are counted
    in the corner.

    Args:
        path: of the PNG.
        panels: (title, points (M, 2)) or (title, points, weights (M,)) from left to right.
        truth: draws (M, 2) of the law aimed at; the regions of highest density that hold half and
            nine tenths of them are outlined in every panel.

    Raises:
        ValueError: shapes that do not fit.
    """
    clouds = [Cloud(*panel) for panel in panels]
    if not clouds:
        raise ValueError("plane needs at least one (title, points) panel; got none")
    for cloud in clouds:
        check_points(f"panel {cloud.title!r}", cloud.points, cloud.weights)
    if truth is not None:
        check_points("truth", truth, None)
    window = window_of([cloud.points for cloud in clouds] + ([] if truth is None else [truth]))
    foot = FOOT if truth is None else FOOT + KEY
    canvas = Canvas(MARGIN + RIGHT + len(clouds) * (PANEL + APART) - APART, HEAD + PANEL + foot)
    for i, (title, points, weights) in enumerate(clouds):
        axes = canvas.axes(MARGIN + i * (PANEL + APART), HEAD, PANEL, PANEL)
        axes.set_title(title, fontsize=LETTERS, color=INK, loc="left", pad=9, parse_math=False)
        scatter(axes, points, weights, window)
        if truth is not None:
            outline(axes, truth, window)
        axes.tick_params(
            labelsize=SMALL, labelcolor=FAINT, color=RULE, length=3, labelleft=i == 0, left=i == 0
        )
    if truth is not None:
        words = "outlined: 50% and 90% of the law aimed at"
        canvas.write(words, canvas.width - RIGHT, HEAD + PANEL + FOOT - 2, SMALL, OCHRE, ha="right")
    canvas.save(path)


def check_points(what: str, points: Tensor, weights: Tensor | None) -> None:
    """Raises ValueError unless these are finite points of the plane with one weight each."""
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"{what} needs points (M, 2); got {tuple(points.shape)}")
    if weights is not None and weights.shape != points.shape[:1]:
        raise ValueError(
            f"{what} needs one weight per point, ({len(points)},); got {tuple(weights.shape)}"
        )
    if not points.isfinite().all():
        raise ValueError(
            f"{what} has points that are NaN or infinite; look at the sampler's steps and reward"
        )
    if weights is not None and not (weights.min() >= 0 and 0 < weights.sum() < torch.inf):
        raise ValueError(
            f"{what} needs weights that are not negative, with a finite sum above 0; got"
            f" {weights.sum():g}"
        )


def window_of(clouds: Sequence[Tensor]) -> Window:
    """The smallest square, slightly enlarged, with the middle 99.8% of every cloud on each axis."""
    ends = np.array(
        [
            np.quantile(cloud.detach().double().cpu().numpy(), (0.001, 0.999), axis=0)
            for cloud in clouds
        ]
    )
    low = ends[:, 0].min(0)
    high = ends[:, 1].max(0)
    half = max(0.56 * float((high - low).max()), 1e-6)
    (x, y) = (low + high) / 2
    return Window((x - half, x + half), (y - half, y + half))


def scatter(
    axes: Axes, points: Tensor, weights: Tensor | None, window: Window, size: float = 5.0
) -> None:
    """Draws points in a square frame, the more of them the more transparent."""
    xy = points.detach().double().cpu().numpy()
    many = min(1500 / len(xy), 1.0)
    area = (
        np.ones(len(xy))
        if weights is None
        else (weights / weights.mean()).detach().double().cpu().numpy()
    )
    area = size * area * max(many**0.25, 0.4)
    alpha = max(0.75 * many**0.7, 0.03)
    axes.scatter(xy[:, 0], xy[:, 1], s=area, color=BLUE, alpha=alpha, linewidths=0)
    axes.set(xlim=window.x, ylim=window.y, aspect="equal")
    for spine in axes.spines.values():
        spine.set_color(RULE)
    outside = int(
        ((xy < [window.x[0], window.y[0]]) | (xy > [window.x[1], window.y[1]])).any(1).sum()
    )
    if outside:
        at: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.985, 0.985, f"{outside} outside", fontsize=SMALL, color=FAINT, **at)


def outline(axes: Axes, truth: Tensor, window: Window, bins: int = 120) -> None:
    """The regions of highest density that hold `MASSES` of the draws.

    From a histogram smoothed by 1.5 bins.
    """
    draws = truth.detach().double().cpu().numpy()
    counts, x, y = np.histogram2d(
        draws[:, 0], draws[:, 1], bins=bins, range=[list(window.x), list(window.y)]
    )
    density = gaussian_filter(counts.T, 1.5)
    ordered = np.sort(density.ravel())
    held = np.cumsum(ordered[::-1])[::-1] / ordered.sum()
    levels = [ordered[np.searchsorted(-held, -mass)] for mass in MASSES]
    centres = ((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
    axes.contour(*centres, density, levels=levels, colors=OCHRE, linewidths=(0.7, 1.1), alpha=0.9)
