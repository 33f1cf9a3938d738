"""CLIP-IQA: the quality of a picture as the odds of two opposite descriptions."""

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond
from rewards.image_text import ImageTextReward, clip_of

__all__ = ["ClipIqa"]


class ClipIqa(ImageTextReward):
    """r(x) = e^(s <f, g(good)>) / (e^(s <f, g(good)>) + e^(s <f, g(bad)>)), s = 100, in [0, 1].

    It is torchmetrics' CLIP-IQA of a `transformers` CLIP, which is not differentiable there, for
    any CLIP of open_clip and with a gradient. The authors' own model ("clip_iqa"), which drops the
    position embedding, is not among them.

    Reference: Wang, Chan & Loy 2022, Exploring CLIP for Assessing the Look and Feel of Images,
    arXiv:2207.12396.

    Args:
        good, bad: the two descriptions.
        model, pretrained: the CLIP, as for ClipScore.

    Raises:
        ValueError: if both descriptions are the same, or for the CLIP as ClipScore.
    """

    SCALE = 100.0

    def __init__(
        self,
        good: str = "Good photo.",
        bad: str = "Bad photo.",
        model: str = "ViT-B-32",
        pretrained: str | None = None,
    ) -> None:
        if good == bad:
            raise ValueError(f"ClipIqa: both descriptions are {good!r}: give two opposite ones")
        super().__init__(*clip_of(model, pretrained))
        self.good = good
        self.bad = bad

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        images = self.images(x)
        difference = (self.embedding(self.good) - self.embedding(self.bad)).to(images)
        return torch.sigmoid(self.SCALE * (images * difference).sum(-1))

    def extra_repr(self) -> str:
        return f"{self.good!r} against {self.bad!r}"
