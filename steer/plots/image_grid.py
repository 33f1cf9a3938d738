"""Grids of images: several results side by side, a row for each prompt."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from steer.plots.axes import FAINT, LETTERS, SMALL, Canvas, width_of, wrapped
from steer.plots.mosaic import GAP, blank, check_images, mosaic, tile_width

WIDTH = 1720
MARGIN = 20
APART = 56
HEAD = 52
NOTE = 26  # pixels for what is written under an image
TINY = 6.5  # its letters, in points

Notes = Sequence[Sequence[str]]


def grid(
    path: str | Path,
    panels: Sequence[tuple[str, Tensor]],
    row_labels: Sequence[str] = (),
    columns: int = 8,
    rows: int = 12,
    notes: Sequence[Notes] = (),
) -> None:
    """Draws panels of images side by side under their titles.

    Small images are enlarged by whole factors, pixel by pixel; pixels outside [0, 1] are shown as
    its ends.

    Args:
        path: of the PNG.
        panels: (title, images) from left to right. Images in [0, 1] are (P, N, C, H, W), a row for
            each prompt, or (M, C, H, W), which are set in rows, as those of a single prompt are.
        row_labels: one per prompt, written at the left.
        columns: the most images of a row of one panel that are drawn, the first ones.
        rows: the most rows that are drawn, the first ones.
        notes: for each panel, what is written under each image: a row for each prompt.

    Raises:
        ValueError: shapes that do not fit.
    """
    if not panels:
        raise ValueError("grid needs at least one (title, images) panel; got none")
    parts = [in_rows(title, images, columns)[:rows] for title, images in panels]
    if row_labels and len(row_labels) != (
        n := max(len(x) if x.ndim == 5 else 1 for _, x in panels)
    ):
        raise ValueError(f"grid needs one row label per prompt, {n}; got {len(row_labels)}")
    written = [noted(each, columns)[:rows] for each in notes] or [[] for _ in panels]
    draw(path, [title for title, _ in panels], parts, wrapped(row_labels[:rows]), written)


def noted(notes: Notes, columns: int) -> Notes:
    """The notes of the images that are drawn, in their rows."""
    if len(notes) > 1:
        return [row[:columns] for row in notes]
    one = list(notes[0])
    wide = min(columns, len(one))
    return [one[k : k + wide] for k in range(0, len(one), wide)]


def in_rows(title: str, images: Tensor, columns: int) -> Tensor:
    """The images that are drawn, (rows, columns, C, H, W)."""
    check_images(f"panel {title!r}", images, (4, 5))
    if images.ndim == 5 and len(images) > 1:
        return images[:, :columns]
    images = images.flatten(0, 1) if images.ndim == 5 else images
    return blank(images, min(columns, len(images)))


def draw(
    path: str | Path,
    titles: list[str],
    parts: list[Tensor],
    labels: list[str],
    notes: Sequence[Notes],
) -> None:
    """Lays out the panels, (rows, columns, C, H, W) each."""
    across = sum(part.shape[1] for part in parts)
    down = max(len(part) for part in parts)
    left = MARGIN + (width_of(labels, SMALL) + 20 if labels else 0)
    room = WIDTH - left - MARGIN - (APART - GAP) * (len(parts) - 1)
    tiles = [tile_width(part.shape, down, across, room) for part in parts]
    rows = [
        [mosaic(row[None], tile) for row in part] for part, tile in zip(parts, tiles, strict=True)
    ]
    widths = [
        max(sheets[0].shape[1], width_of([title]))
        for sheets, title in zip(rows, titles, strict=True)
    ]
    tall = rows[0][0].shape[0]
    pitch = tall + GAP + (NOTE if any(notes) else 0)
    canvas = Canvas(
        left + sum(widths) + APART * (len(parts) - 1) + MARGIN, HEAD + down * pitch - GAP + MARGIN
    )
    for i, label in enumerate(labels):
        canvas.write(label, left - 20, HEAD + i * pitch + tall / 2, SMALL, FAINT, ha="right")
    for k, (title, sheets, width) in enumerate(zip(titles, rows, widths, strict=True)):
        canvas.write(title, left, HEAD - 24, LETTERS)
        for i, sheet in enumerate(sheets):
            canvas.lay(sheet, left, HEAD + i * pitch)
        for i, row in enumerate(notes[k]):
            for j, note in enumerate(row):
                middle = left + j * (tiles[k] + GAP) + tiles[k] / 2
                canvas.write(
                    note, middle, HEAD + i * pitch + tall + NOTE / 2, TINY, FAINT, "center"
                )
        left += width + APART
    canvas.save(path)
