"""Mosaics: batches of images as one array of bytes."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from steer.pixels import to_bytes

GAP = 4  # white pixels between tiles
SMALL_TILE = 128  # the width in pixels up to which small images are enlarged
LARGE_TILE = 256  # the width up to which large ones keep their size


def check_images(what: str, images: Tensor, axes: tuple[int, ...]) -> None:
    """Raises ValueError unless these are images: that many axes, grey or in colour, finite."""
    if images.ndim not in axes or images.shape[-3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"{what} needs images (..., C, H, W) with C = 1 or 3; got {tuple(images.shape)}"
        )
    if not images.isfinite().all():
        raise ValueError(
            f"{what} has images with pixels that are NaN or infinite; look at the sampler's steps"
            " and reward"
        )


def tile_width(
    shape: tuple[int, ...], rows: int, columns: int, room: int, height: int = 1150
) -> int:
    """The width at which `columns` images (..., H, W) fit in `room` pixels.

    And `rows` of small ones in `height`. An integer multiple of W if there is space for one.

    An integer multiple of W if there is space for one.
    """
    tall, wide = shape[-2:]
    across = (room - (columns - 1) * GAP) // columns
    enlarged = min(SMALL_TILE, height // rows * wide // tall)
    most = min(across, max(enlarged, min(wide, LARGE_TILE)))
    return most // wide * wide if most >= wide else max(most, 1)


def resize(images: Float[Tensor, "n c h w"], width: int) -> Float[Tensor, "n c height width"]:
    """Resizes to an integer multiple of the width by repeating pixels, to others by area means."""
    if width % images.shape[-1] == 0:
        factor = width // images.shape[-1]
        return images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    height = max(round(images.shape[-2] * width / images.shape[-1]), 1)
    return F.interpolate(images, (height, width), mode="area")


def in_colour(images: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b 3 h w"]:
    """[0, 1] as 0..255, clamped; grey images become three equal channels."""
    shape = (*images.shape[:-3], 3, *images.shape[-2:])
    return to_bytes(images).expand(shape)


def mosaic(images: Float[Tensor, "r k c h w"], width: int) -> UInt8[np.ndarray, "height wide 3"]:
    """Rows of tiles `width` wide, GAP white pixels between them."""
    rows, columns = images.shape[:2]
    tiles = in_colour(resize(images.flatten(0, 1).detach().float().cpu(), width)).permute(
        0, 2, 3, 1
    )
    height = tiles.shape[1]
    sheet = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for i, tile in enumerate(tiles.numpy()):
        top = i // columns * (height + GAP)
        left = i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def blank(images: Float[Tensor, "m c h w"], columns: int) -> Float[Tensor, "r columns c h w"]:
    """Images in rows of `columns`, the last row filled up with white."""
    missing = -len(images) % columns
    white = images.new_ones(missing, *images.shape[1:])
    return torch.cat((images, white)).unflatten(0, (-1, columns))
