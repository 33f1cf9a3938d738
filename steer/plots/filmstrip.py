"""Filmstrips: the look-ahead's estimates of the clean sample, for a few particles at each time."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from steer.plots.axes import FAINT, SMALL, Canvas, width_of, wrapped
from steer.plots.mosaic import GAP, check_images, mosaic, tile_width
from steer.plots.point_clouds import check_points, scatter, window_of

WIDTH = 1720
MARGIN = 20
HEAD = 52
APART = 16
FRAMES = 12
ROWS = 12


def filmstrip(
    path: str | Path, film: Tensor, times: Tensor, row_labels: Sequence[str] = ()
) -> None:
    """Draws a strip for each prompt, with time from left to right.

    Of more than 12 times, 12 evenly spaced ones are drawn, the last among them; of more than 12
    rows, the first 12.

    Args:
        path: of the PNG.
        film: images in [0, 1] (T, P, F, C, H, W), a row for each of the F particles, or points (T,
            P, F, 2).
        times: t of each frame, (T,).
        row_labels: one per prompt, or none.

    Raises:
        ValueError: shapes that do not fit.
    """
    if film.ndim not in (4, 6) or 0 in film.shape or times.shape != film.shape[:1]:
        raise ValueError(
            "filmstrip needs film (T, P, F, C, H, W) or (T, P, F, 2) and times (T,); got"
            f" {tuple(film.shape)} and"
            f" {tuple(times.shape)}"
        )
    if row_labels and len(row_labels) != film.shape[1]:
        raise ValueError(
            f"filmstrip needs one row label per prompt, {film.shape[1]}; got {len(row_labels)}"
        )
    kept = torch.linspace(0, len(film) - 1, min(len(film), FRAMES)).round().long()
    shown = film[kept, :ROWS].transpose(0, 1)
    strip = images if film.ndim == 6 else points
    strip(path, shown, [f"{t:.2f}" for t in times[kept].tolist()], wrapped(row_labels[:ROWS]))


def images(path: str | Path, film: Tensor, times: list[str], labels: list[str]) -> None:
    """film (P, T, F, C, H, W)."""
    check_images("filmstrip", film, (6,))
    each = max(min(film.shape[2], ROWS // len(film)), 1)
    left = MARGIN + width_of([*labels, "t ="], SMALL) + 20
    width = tile_width(film.shape, len(film) * each, len(times), WIDTH - left - MARGIN)
    sheets = [mosaic(prompt[:, :each].transpose(0, 1), width) for prompt in film]
    canvas = Canvas(
        left + sheets[0].shape[1] + MARGIN,
        HEAD + sum(s.shape[0] + APART for s in sheets) - APART + MARGIN,
    )
    header(canvas, times, left, width, width + GAP)
    top = HEAD
    for i, sheet in enumerate(sheets):
        canvas.lay(sheet, left, top)
        if labels:
            canvas.write(labels[i], left - 20, top + sheet.shape[0] / 2, SMALL, FAINT, ha="right")
        top += sheet.shape[0] + APART
    canvas.save(path)


def points(path: str | Path, film: Tensor, times: list[str], labels: list[str]) -> None:
    """film (P, T, F, 2)."""
    check_points("filmstrip", film.flatten(0, 2), None)
    left = MARGIN + width_of([*labels, "t ="], SMALL) + 20
    side = min((WIDTH - left - MARGIN) // len(times) - 8, 240)
    window = window_of([film.flatten(0, 2)])
    canvas = Canvas(
        left + len(times) * (side + 8) - 8 + MARGIN,
        HEAD + len(film) * (side + APART) - APART + MARGIN,
    )
    header(canvas, times, left, side, side + 8)
    for i, prompt in enumerate(film):
        top = HEAD + i * (side + APART)
        for j, cloud in enumerate(prompt):
            axes = canvas.axes(left + j * (side + 8), top, side, side)
            scatter(axes, cloud, None, window, size=2.0)
            axes.set(xticks=[], yticks=[])
        if labels:
            canvas.write(labels[i], left - 20, top + side / 2, SMALL, FAINT, ha="right")
    canvas.save(path)


def header(canvas: Canvas, times: list[str], left: int, width: int, pitch: int) -> None:
    """The time above each column."""
    canvas.write("t =", left - 20, HEAD - 22, SMALL, FAINT, ha="right")
    for i, time in enumerate(times):
        canvas.write(time, left + i * pitch + width / 2, HEAD - 22, SMALL, FAINT, ha="center")
