"""Likeness to a given picture: PSNR, SSIM and LPIPS, by torchmetrics."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from rewards.base import Cond, Reward
from rewards.weight_files import load_weights, read_weights, weight_file
from steer.conditions import Condition

__all__ = ["Lpips", "Psnr", "Ssim"]


class Likeness(Reward):
    """A reward by how like a picture x is to a reference y.

    Args:
        reference: y, the same for all samples: a picture file, or (c, h, w) in [0, 1]; None takes
            each sample's own from the field `reference` (b, c, h, w) of a steer.Condition.

    Raises:
        ValueError: if the picture cannot be read; when called, if there is none, or one of another
            size.
    """

    def __init__(self, reference: Tensor | str | Path | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        self.register_buffer(
            "reference", None if reference is None else picture_of(reference, name)
        )

    def target(self, x: Float[Tensor, "b c h w"], cond: Cond) -> Float[Tensor, "b c h w"]:
        """Return the reference of each sample."""
        own = cond.fields.get("reference") if isinstance(cond, Condition) else None
        found = self.reference[None] if isinstance(self.reference, Tensor) else own
        name = type(self).__name__
        if not isinstance(found, Tensor):
            raise ValueError(
                f"{name}: there is no picture to compare with: set reference=, or pass "
                "steer.Condition(reference=(b, c, h, w))"
            )
        if found.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"{name}: expected samples of the reference's shape {tuple(found.shape[1:])}, got "
                f"{tuple(x.shape[1:])}: resize the reference"
            )
        return found.to(x).expand(len(x), -1, -1, -1)


class Psnr(Likeness):
    """r(x) = -10 log10 of the mean squared error, the peak signal-to-noise ratio in decibel.

    It is infinite at the reference itself, where a run stops.

    Args:
        reference: what x is compared with, see `Likeness`.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        found = peak_signal_noise_ratio(
            x, self.target(x, cond), data_range=1.0, reduction="none", dim=(1, 2, 3)
        )
        return found


class Ssim(Likeness):
    """r(x) = the structural similarity of x and the reference, at most 1.

    Reference: Wang et al. 2004, doi 10.1109/TIP.2003.819861.

    Args:
        reference: what x is compared with, see `Likeness`.
    """

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        found = structural_similarity_index_measure(
            x, self.target(x, cond), data_range=1.0, reduction="none"
        )
        assert isinstance(found, Tensor)
        return found


class Lpips(Likeness):
    """r(x) = -LPIPS(x, reference), the learned perceptual distance, at most 0.

    torchmetrics brings the linear layers on top of the backbone and not the backbone itself, which
    is torchvision's for ImageNet. Greyscale pictures count as RGB of three equal channels.

    Reference: Zhang et al. 2018, arXiv:1801.03924. Weights: BSD-2-Clause (the layers), BSD-3-Clause
    (torchvision's backbones).

    Args:
        backbone: the file of torchvision's weights for `net`, such as alexnet-owt-7be5be79.pth.
        reference: what x is compared with, see `Likeness`.
        net: the backbone: "alex", "vgg" (of 16 layers) or "squeeze" (1.1).

    Raises:
        ValueError: if the backbone is missing or of another network, or as `Likeness`.
    """

    def __init__(
        self,
        backbone: str,
        reference: Tensor | str | Path | None = None,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
    ) -> None:
        super().__init__(reference)
        path = weight_file(backbone)
        self.net = net
        self.distance = lpips_of(net, path)
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        target = self.target(x, cond)
        x, target = x.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1)
        return -self.distance(x, target, normalize=True).flatten()

    def extra_repr(self) -> str:
        return f"net={self.net!r}"


def lpips_of(net: Literal["alex", "vgg", "squeeze"], backbone: Path) -> nn.Module:
    """Build torchmetrics' LPIPS with the convolutions of a file of torchvision's backbone.

    Raises:
        ValueError: weights of another network.
    """
    from torchmetrics.functional.image.lpips import _LPIPS  # the public class fetches weights

    distance = _LPIPS(net=net, pnet_rand=True)
    features = nn.Module()  # the layers of all slices, by the numbers they have in torchvision
    for part in distance.net.modules():
        if isinstance(part, nn.Sequential):
            for number, layer in part.named_children():
                features.add_module(number, layer)
    weights = read_weights(backbone)
    stem = "features."
    own = {k.removeprefix(stem): v for k, v in weights.items() if k.startswith(stem)}
    load_weights(features, own, backbone)
    return distance


def picture_of(picture: Tensor | str | Path, reward: str) -> Float[Tensor, "c h w"]:
    """Read a picture in [0, 1].

    Args:
        picture: (c, h, w), or a file, which becomes RGB.
        reward: who asks, for the error.

    Raises:
        ValueError: no such picture, or a tensor of another shape or range.
    """
    if isinstance(picture, Tensor):
        x = 1.0 * picture
    else:
        try:
            with Image.open(Path(picture).expanduser()) as file:
                pixels = np.asarray(file.convert("RGB"))
        except OSError as error:
            raise ValueError(
                f"{reward}: reference {str(picture)!r} cannot be read as a picture: give a file, "
                "such as a PNG"
            ) from error
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    if x.ndim != 3 or not x.numel() or float(x.min()) < 0 or float(x.max()) > 1:
        low, high = (float(x.min()), float(x.max())) if x.numel() else (math.nan, math.nan)
        raise ValueError(
            f"{reward}: expected a reference (c, h, w) in [0, 1], got {tuple(x.shape)} in "
            f"[{low:.3g}, {high:.3g}]: rescale it"
        )
    return x
