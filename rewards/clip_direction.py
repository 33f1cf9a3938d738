"""Directional CLIP: how far a picture moved from one description towards another."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rewards.base import Cond
from rewards.image_text import ImageTextReward, clip_of
from rewards.reference import picture_of

__all__ = ["ClipDirection"]


class ClipDirection(ImageTextReward):
    """r(x) = cos(f(x) - f(x_0), g(target) - g(source)), or cos(f(x), ...) without a picture x_0.

    With x_0, the picture before an edit, it rewards the change alone: what both texts and both
    pictures share cancels.

    Reference: Gal et al. 2021, StyleGAN-NADA, arXiv:2108.00946.

    Args:
        source, target: what the picture is to move from and to, as "a photo" and "a sketch".
        reference: x_0, the same for all samples: a picture file, or (c, h, w) in [0, 1]; None for
            the direction alone.
        model, pretrained: the CLIP, as for ClipScore.

    Raises:
        ValueError: if both texts are the same, the picture cannot be read, or for the CLIP as
            ClipScore.
    """

    def __init__(
        self,
        source: str,
        target: str,
        reference: Tensor | str | Path | None = None,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
    ) -> None:
        if source == target:
            raise ValueError(f"ClipDirection: source and target are both {source!r}: give two")
        picture = None if reference is None else picture_of(reference, "ClipDirection")
        super().__init__(*clip_of(model, pretrained))
        self.source = source
        self.target = target
        self.register_buffer("reference", picture)

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        moved = self.images(x)
        if isinstance(self.reference, Tensor):
            moved = moved - self.images(self.reference[None])
        wanted = self.embedding(self.target) - self.embedding(self.source)
        return F.cosine_similarity(moved, wanted[None].to(moved), dim=-1)

    def extra_repr(self) -> str:
        return f"{self.source!r} -> {self.target!r}"
