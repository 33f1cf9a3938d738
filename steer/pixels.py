"""Pixels of 8 bits, as files of pictures keep them."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["as_saved", "to_bytes"]

IMAGE_AXES = 4  # (b, c, h, w); films have one more


def to_bytes(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round images in [0, 1] to 0..255; values outside are clamped, and gradients are lost."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def as_saved(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute the images in [0, 1] that are read back from files of 8 bits.

    Pixels that are NaN stay NaN, and what has not the axes of images (b, c, h, w), such as points,
    stays as it is.
    """
    if images.ndim < IMAGE_AXES:
        return images
    return (to_bytes(images).to(images.dtype) / 255).where(~images.isnan(), torch.nan)
