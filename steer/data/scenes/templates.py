"""Templates of every shape, size and colour, for matching by the reduction of squared error.

Laying an object of coverage a, tone m and tint w in colour c over the background b changes the
picture by tau = m c + w - a b. It reduces the squared error to the picture b + d, over the pixels
of weight q, by

    gain = sum q d^2 - sum q (d - tau)^2 = 2 sum q d tau - sum q tau^2,

which is linear in nine maps of the picture, (q d, sum q d b, q, q b, sum q b^2), where d and b are
RGB. A template holds what multiplies each of them, so that the gains at all places are a
correlation.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.data.scenes.draw import WIDTH, sprites
from steer.data.scenes.scene import COLOURS, SIDE, SIZES
from steer.data.scenes.shapes import SHAPES

MAPS = 9
SOFT = 0.6  # standard deviation in pixels by which templates are blurred
PAD = 6  # pixels by which a template may reach over the edge of a picture
KINDS = [(shape, size, colour) for shape in SHAPES for size in SIZES for colour in COLOURS]


class Templates(NamedTuple):
    """Templates in the order of KINDS.

    Attributes:
        exact: (kinds, 4 * 4, MAPS, WIDTH, WIDTH), at each quarter of a pixel, y first.
        spectra: (frequencies, MAPS, kinds), of those at whole pixels.
        cover: (kinds, 4 * 4, WIDTH, WIDTH), blurred coverage.
        reach: (kinds, WIDTH, WIDTH), 1 on the object and a pixel around it, 0 elsewhere.
        reach_spectra: (kinds without colour, frequencies), of `reach`.
    """

    exact: Tensor
    spectra: Tensor
    cover: Tensor
    reach: Tensor
    reach_spectra: Tensor


@functools.cache
def templates() -> Templates:
    """Make the templates."""
    drawn = sprites()
    cover = blurred(torch.from_numpy(drawn.coverage).flatten(0, 1).flatten(1, 2), SOFT)
    tone = blurred(torch.from_numpy(drawn.tone).flatten(0, 1).flatten(1, 2), SOFT)
    tint = blurred(torch.from_numpy(drawn.tint).flatten(0, 1).flatten(1, 2).movedim(-1, 0), SOFT)
    colours = torch.tensor(list(COLOURS.values()))
    paint = tone[:, None, :, None] * colours[None, :, None, :, None, None]
    paint = (paint + tint.movedim(0, 2)[:, None]).flatten(0, 1)  # kinds, 16, 3, h, w
    cover = cover.repeat_interleave(len(COLOURS), 0)
    a = cover[:, :, None]
    exact = torch.cat(
        (
            2 * paint,
            -2 * a,
            -paint.square().sum(2, keepdim=True),
            2 * a * paint,
            -a.square(),
        ),
        dim=2,
    )
    reach = torch.nn.functional.max_pool2d((cover[:, 0] > 0.2).float(), 3, 1, 1)
    spectra = spectrum(exact[:, 0]).permute(2, 1, 0).contiguous()
    return Templates(exact, spectra, cover, reach, spectrum(reach[:: len(COLOURS)]))


def spectrum(images: Float[Tensor, "*n h w"]) -> Tensor:
    """Return the conjugate spectra (*n, frequencies) of templates centred at the origin."""
    full = torch.nn.functional.pad(images, (0, SIDE - WIDTH, 0, SIDE - WIDTH))
    centred = full.roll((-(WIDTH // 2), -(WIDTH // 2)), (-2, -1))
    return torch.fft.rfft2(centred).conj().flatten(-2)


def blurred(images: Float[Tensor, "*n h w"], std: float) -> Float[Tensor, "*n h w"]:
    """Blur by a Gaussian of this standard deviation in pixels."""
    spots = torch.arange(-3, 4, dtype=images.dtype, device=images.device)
    weights = torch.exp(-spots.square() / (2 * std**2))
    kernel = (weights / weights.sum()).outer(weights / weights.sum())
    flat = torch.nn.functional.pad(images.reshape(-1, 1, *images.shape[-2:]), (3,) * 4, "replicate")
    return torch.nn.functional.conv2d(flat, kernel[None, None]).reshape(images.shape)


def maps(
    d: Float[Tensor, "b 3 h w"], ground: Float[Tensor, "b 3 h w"], q: Float[Tensor, "b h w"]
) -> Float[Tensor, "b 9 h w"]:
    """The nine maps of pictures that the templates multiply."""
    q = q[:, None]
    return torch.cat(
        (
            q * d,
            (q * d * ground).sum(1, keepdim=True),
            q,
            q * ground,
            (q * ground.square()).sum(1, keepdim=True),
        ),
        dim=1,
    )
