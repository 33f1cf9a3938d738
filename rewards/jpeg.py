"""JPEG size: the negative file size of a compressed image, a reward without a gradient."""

from io import BytesIO

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rewards.base import Cond, Reward
from steer.pixels import to_bytes

__all__ = ["JpegSize"]


class JpegSize(Reward):
    """r(x) = -(kilobytes of x as a JPEG file); a kilobyte is 1000 bytes.

    The image is rounded to 8 bits first, with values outside [0, 1] clamped.

    Reference: Black et al. 2023, Training Diffusion Models with Reinforcement Learning,
    arXiv:2305.13301, where it is called compressibility.

    Args:
        quality: JPEG quality, from 1 to 95.

    Raises:
        ValueError: if quality is out of range; when called, if images are neither greyscale nor
            RGB.
    """

    differentiable = False
    why_not_differentiable = "JpegSize counts the bytes of a compressed file: it has no gradient."
    instead = "Use a method without gradients, such as best-of-n, or a differentiable reward."

    def __init__(self, quality: int = 85) -> None:
        super().__init__()
        if not 1 <= quality <= 95:
            raise ValueError(f"JpegSize: expected quality from 1 to 95, got {quality}: 85 is usual")
        self.quality = quality

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        if x.shape[1] not in (1, 3):
            raise ValueError(
                f"JpegSize: expected images of 1 or 3 channels, got {x.shape[1]}: decode them first"
            )
        # an image with NaN has no size, though it could be written to a file
        finite = x.isfinite().flatten(1).all(1)
        pixels = to_bytes(x).cpu()
        value = torch.tensor(
            [-self.kilobytes(image) for image in pixels], dtype=x.dtype, device=x.device
        )
        return value.where(finite, torch.nan)

    def kilobytes(self, image: UInt8[Tensor, "c h w"]) -> float:
        """Measure the size of one image as a JPEG file."""
        file = BytesIO()
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(
            file, "JPEG", quality=self.quality
        )
        return file.tell() / 1000

    def extra_repr(self) -> str:
        return f"quality={self.quality}"
