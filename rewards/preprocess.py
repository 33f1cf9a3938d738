"""Differentiable image preprocessing of open_clip."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """Preprocessing of images in [0, 1] for an image encoder: resize, crop or pad, normalise.

    Resizing is antialiased as in Pillow, which open_clip uses. Pillow works in 8 bits: on smooth
    images both agree within rounding (.02 in normalised units), but at hard edges bicubic
    interpolation overshoots [0, 1], which 8 bits clamp (differences up to .5 at single pixels, .01
    in the mean). Here the overshoot stays, since a clamp has no gradient.

    Args:
        config: open_clip's own description of the model's preprocessing, from
            `open_clip.get_model_preprocess_cfg`: size, mean, std, interpolation, resize_mode
            ("shortest" side to size and crop, "longest" and pad, or "squash"), fill_color; and
            perhaps floor_crop, whether half a pixel of margin is cut from the right and below, as
            transformers does, where open_clip rounds to even.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.resize_mode = config.get("resize_mode", "shortest")
        self.interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
        self.floor_crop = bool(config.get("floor_crop", False))
        self.fill = config.get("fill_color", 0) / 255
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(config["std"])[:, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 i j"]:
        x = self.three_channels(x).to(self.mean)
        size = self.resized(x.shape[-2:])
        if size != tuple(x.shape[-2:]):
            x = F.interpolate(x, size, mode=self.interpolation, antialias=True)
        return (centred(x, self.size, self.fill, self.floor_crop) - self.mean) / self.std

    def three_channels(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """Repeat a greyscale channel three times. Raises ValueError for other channel counts."""
        if x.shape[1] not in (1, 3):
            raise ValueError(
                f"expected images of 1 or 3 channels, got {x.shape[1]}: decode them first"
            )
        return x.expand(-1, 3, -1, -1)

    def resized(self, image: torch.Size) -> tuple[int, int]:
        """Compute height and width after resizing and before cropping or padding."""
        if self.resize_mode == "squash":
            return self.size
        square = self.size[0] == self.size[1]
        if self.resize_mode == "shortest" and square:  # torchvision's Resize, which rounds down
            return self.size[0] * image[0] // min(image), self.size[1] * image[1] // min(image)
        ratios = [side / target for side, target in zip(image, self.size, strict=True)]
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return round(image[0] / ratio), round(image[1] / ratio)


def centred(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], fill: float, floor: bool = False
) -> Float[Tensor, "b c i j"]:
    """Crop or pad an image around its centre to the given size."""
    height, width = x.shape[-2:]
    top, left = max(size[0] - height, 0), max(size[1] - width, 0)
    x = F.pad(x, (left // 2, (left + 1) // 2, top // 2, (top + 1) // 2), value=fill)
    rounded = math.floor if floor else round
    top, left = rounded((x.shape[-2] - size[0]) / 2), rounded((x.shape[-1] - size[1]) / 2)
    return x[..., top : top + size[0], left : left + size[1]]
