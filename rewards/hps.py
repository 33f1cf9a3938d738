"""Human Preference Score v2 and v2.1: what people preferred among pictures, by a tuned CLIP."""

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond
from rewards.image_text import ImageTextReward
from rewards.open_clip_model import untrained
from rewards.weight_files import load_weights, read_weights, weight_file

__all__ = ["HpsV2"]


class HpsV2(ImageTextReward):
    """r(x, y) = <f(x), g(y)>, typically about .28.

    Pictures are scaled to 224 by their longest side, keeping their shape, and padded with black, as
    published. The preprocessing and the reading of a checkpoint are tested on a small model; not
    yet run on the published weights.

    Reference: Wu et al. 2023, Human Preference Score v2, arXiv:2306.09341.

    Args:
        weights: a file, or owner/name/file on the hub, in open_clip's names, perhaps under
            "state_dict"; HPS_v2_compressed.pt of the same repository is version 2.
        model: open_clip's name of the architecture.
        prompt: y, the same for every sample; None takes each sample's own from cond.

    Raises:
        ValueError: if the weights are missing or are not of that model; when called, as ClipScore.
    """

    def __init__(
        self,
        weights: str = "xswu/HPSv2/HPS_v2.1_compressed.pt",
        model: str = "ViT-H-14",
        prompt: str | None = None,
    ) -> None:
        path = weight_file(weights)
        network, tokenizer = untrained(model)
        load_weights(network, read_weights(path, "state_dict"), path)
        super().__init__(network, tokenizer, prompt, resize_mode="longest", fill_color=0)

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        texts = self.texts(cond, len(x))
        images = self.images(x)
        return (images * texts.to(images)).sum(-1)

    def extra_repr(self) -> str:
        return f"prompt={self.prompt!r}"
