"""Concept penalty: pictures that show unwanted concepts lose reward."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond
from rewards.image_text import ImageTextReward, clip_of

__all__ = ["ConceptPenalty"]


class ConceptPenalty(ImageTextReward):
    """r(x) = -sum_k max(<f(x), g(concept_k)> - threshold, 0), at most 0.

    A picture whose cosine with every concept stays below the threshold loses nothing and has no
    gradient. A published filter of this form has a threshold for each concept: Rando et al. 2022,
    arXiv:2210.04610.

    Args:
        concepts: unwanted ones, each a text.
        threshold: the cosine that is still free; CLIPs of open_clip give pictures of a concept
            about .2 to .35.
        model, pretrained: the CLIP, as for ClipScore.

    Raises:
        ValueError: if there is no concept or the threshold is not in [-1, 1], or for the CLIP as
            ClipScore.
    """

    def __init__(
        self,
        concepts: Sequence[str],
        threshold: float = 0.2,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
    ) -> None:
        if isinstance(concepts, str) or not concepts:
            raise ValueError(f"ConceptPenalty: expected a list of texts, got {concepts!r}")
        if not -1 <= threshold <= 1:
            raise ValueError(
                f"ConceptPenalty: expected a threshold in [-1, 1], a cosine, got {threshold}"
            )
        super().__init__(*clip_of(model, pretrained))
        self.concepts = list(concepts)
        self.threshold = float(threshold)

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        return -torch.stack([*self.excess(x).values()]).sum(0)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        """Compute what each concept costs, by its name."""
        return {concept: -excess for concept, excess in self.excess(x).items()}

    def excess(self, x: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, " b"]]:
        """Compute how far each concept's cosine is above the threshold."""
        images = self.images(x)
        cosines = {c: (images * self.embedding(c).to(images)).sum(-1) for c in self.concepts}
        return {c: (cosine - self.threshold).clamp(min=0) for c, cosine in cosines.items()}

    def extra_repr(self) -> str:
        return f"{self.concepts}, threshold={self.threshold:g}"
