"""What JPEG leaves of an image, as torch can follow it: a measurement that is not linear.

    A(x) = x with the 8 x 8 cosine transform of its blocks rounded to multiples of a table,

in the luminance and colour differences of JPEG for RGB, at full colour resolution, and none of the
rounding to whole grey levels. Forwards it is the true quantisation. Backwards the rounding is
passed over as if it were the identity (straight-through: Bengio et al. 2013, arXiv 1308.3432); its
true gradient is zero almost everywhere. The transform being orthonormal, the gradient of <A(x), y>
is then y itself.

Reference: ITU-T T.81 (the tables of its Annex K, scaled with quality as the Independent JPEG Group
does).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewards.operators import Operator

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR = (
    (17, 18, 24, 47),
    (18, 21, 26, 66),
    (24, 26, 56, 99),
    (47, 66, 99, 99),
)  # and 99 in the other places
TO_LUMINANCE = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class JpegLike(Operator):
    """Images in [0, 1] as they come back from a JPEG file of this quality.

    An image with a side that 8 does not divide is padded with its last row or column, and cut back
    afterwards.

    Args:
        quality: from 1 to 100.

    Raises:
        ValueError: if quality is out of range; when called, if images are neither greyscale nor
            RGB.
    """

    table: Tensor
    cosines: Tensor
    colours: Tensor

    def __init__(self, quality: int = 10) -> None:
        super().__init__()
        if not 1 <= quality <= 100:
            raise ValueError(
                f"JpegLike: expected quality from 1 to 100, got {quality}: 10 is poor, 75 usual"
            )
        self.quality = quality
        colour = torch.full((8, 8), 99.0, dtype=torch.float64)
        colour[:4, :4] = torch.tensor(COLOUR)
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        tables = torch.stack((torch.tensor(LUMINANCE, dtype=torch.float64), colour, colour))
        self.register_buffer("table", ((tables * scale + 50) / 100).floor().clamp(1, 255))
        self.register_buffer("cosines", cosines())
        self.register_buffer("colours", torch.tensor(TO_LUMINANCE, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        channels = x.shape[1]
        h, w = x.shape[2:]
        if channels not in (1, 3):
            raise ValueError(
                f"JpegLike: expected images of 1 or 3 channels, got {channels}: decode them first"
            )
        levels = nn.functional.pad(255 * x, (0, -w % 8, 0, -h % 8), mode="replicate")
        if channels == 3:
            levels = torch.einsum("ij,bjhw->bihw", self.colours.to(x), levels)
        grey = torch.tensor([128.0, 0, 0]).to(x)[:channels, None, None]
        levels = self.quantised(levels - grey) + grey
        if channels == 3:
            levels = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(self.colours).to(x), levels)
        return levels[..., :h, :w] / 255

    def quantised(self, levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The blocks' cosine coefficients at multiples of the table."""
        c = self.cosines.to(levels)
        table = self.table.to(levels)[: levels.shape[1], None, :, None, :]
        blocks = levels.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # b c rows 8 columns 8
        multiples = torch.einsum("ui,bcriks,vs->bcrukv", c, blocks, c) / table
        rounded = multiples + (multiples.round() - multiples).detach()
        blocks = torch.einsum("ui,bcrukv,vs->bcriks", c, rounded * table, c)
        return blocks.flatten(4, 5).flatten(2, 3)

    def extra_repr(self) -> str:
        return f"quality={self.quality}"


def cosines() -> Float[Tensor, "8 8"]:
    """The orthonormal cosine transform of eight numbers: rows are frequencies."""
    u = torch.arange(8, dtype=torch.float64)[:, None]
    i = torch.arange(8, dtype=torch.float64)
    rows = torch.cos(math.pi * u * (2 * i + 1) / 16) / 2
    return torch.cat((rows[:1] / math.sqrt(2), rows[1:]))
