"""LAION's predictors of aesthetic ratings: a linear layer or a chain of them on CLIP embeddings."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from rewards.base import Cond
from rewards.image_text import ImageTextReward, clip_of
from rewards.weight_files import load_weights, read_weights, weight_file

__all__ = ["AestheticV1", "AestheticV2"]

HIDDEN = (1024, 128, 64, 16)
DROPOUT = (0.2, 0.2, 0.1)  # behind the first three layers; inactive, but counted in the names


class AestheticV1(ImageTextReward):
    """r(x) = <w, f(x)> + b, a rating from 1 to 10.

    Tested on a small CLIP and a file written by torch's own Linear; not yet run on the published
    weights.

    Reference: Schuhmann 2022, LAION-AI/aesthetic-predictor on GitHub. Weights: MIT.

    Args:
        head: the file of w and b, "sa_0_4_vit_l_14_linear.pth" of that repository for ViT-L-14; or
            owner/name/file on the hub.
        model, pretrained: the CLIP that f is of, as for ClipScore.

    Raises:
        ValueError: if the head is missing or does not fit the CLIP, or for the CLIP as ClipScore.
    """

    def __init__(
        self, head: str, model: str = "ViT-L-14-quickgelu", pretrained: str | None = "openai"
    ) -> None:
        path = weight_file(head)
        super().__init__(*clip_of(model, pretrained))
        self.head = nn.Linear(width_of(self.model), 1)
        load_weights(self.head, read_weights(path), path)
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        return self.head(self.images(x)).squeeze(-1)


class AestheticV2(ImageTextReward):
    """r(x) = MLP(f(x)), a rating from 1 to 10, typically about 5.9.

    The MLP has layers of 1024, 128, 64, 16 and 1 without activations between, as published: it is
    a linear function of f(x). Tested on a small CLIP; not yet run on the published weights.

    Reference: Schuhmann 2022, improved-aesthetic-predictor on GitHub.

    Args:
        head: the file of the MLP, "sac+logos+ava1-l14-linearMSE.pth" of that repository; or
            owner/name/file on the hub.
        model, pretrained: the CLIP that f is of, as for ClipScore.

    Raises:
        ValueError: if the head is missing or does not fit the CLIP, or for the CLIP as ClipScore.
    """

    def __init__(
        self, head: str, model: str = "ViT-L-14-quickgelu", pretrained: str | None = "openai"
    ) -> None:
        path = weight_file(head)
        super().__init__(*clip_of(model, pretrained))
        self.head = RatingHead(width_of(self.model))
        load_weights(self.head, read_weights(path), path)
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        return self.head(self.images(x)).squeeze(-1)


class RatingHead(nn.Module):
    """The layers of AestheticV2 and of ImageReward by their published names, `layers.0` on.

    Args:
        width: of the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        chain: list[nn.Module] = []
        for k, (inputs, outputs) in enumerate(pairwise((width, *HIDDEN, 1))):
            chain.append(nn.Linear(inputs, outputs))
            chain += [nn.Dropout(p) for p in DROPOUT[k : k + 1]]
        self.layers = nn.Sequential(*chain)

    def forward(self, x: Float[Tensor, "b e"]) -> Float[Tensor, "b 1"]:
        return self.layers(x)


def width_of(model: nn.Module) -> int:
    """Return the dimension of a CLIP's embeddings, where its text and image towers meet."""
    projection = getattr(model, "text_projection", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if isinstance(projection, Tensor):
        return projection.shape[1]
    visual = getattr(model, "visual", None)
    return int(getattr(visual, "output_dim", 0)) or int(model.text.output_dim)  # type: ignore
