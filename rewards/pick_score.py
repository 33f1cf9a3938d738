"""PickScore: what people preferred among pictures of a prompt, by a tuned CLIP."""

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond
from rewards.clip_keys import to_open_clip
from rewards.image_text import ImageTextReward
from rewards.open_clip_model import untrained
from rewards.weight_files import load_weights, read_weights, weight_file

__all__ = ["PickScore"]


class PickScore(ImageTextReward):
    """r(x, y) = exp(tau) <f(x), g(y)>, with the learned logit scale tau; typically about 21.5.

    exp(tau) is about 100: divide by it, or multiply by a weight of .01, for a cosine. Pictures are
    scaled to 224 by their shortest side and cropped, to the pixel as transformers does. The
    agreement of the renamed weights with `transformers.CLIPModel` is tested on a small model; not
    yet run on the published weights.

    Reference: Kirstain et al. 2023, Pick-a-Pic, arXiv:2305.01569.

    Args:
        weights: a file, or owner/name/file on the hub, of a `transformers.CLIPModel`.
        model: open_clip's name of the same architecture.
        prompt: y, the same for every sample; None takes each sample's own from cond.

    Raises:
        ValueError: if the weights are missing or are not of that model; when called, as ClipScore.
    """

    def __init__(
        self,
        weights: str = "yuvalkirstain/PickScore_v1/model.safetensors",
        model: str = "ViT-H-14",
        prompt: str | None = None,
    ) -> None:
        path = weight_file(weights)
        network, tokenizer = untrained(model)
        load_weights(network, to_open_clip(read_weights(path)), path)
        super().__init__(network, tokenizer, prompt, floor_crop=True)

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        texts = self.texts(cond, len(x))
        images = self.images(x)
        return self.model.logit_scale.exp() * (images * texts.to(images)).sum(-1)

    def extra_repr(self) -> str:
        return f"prompt={self.prompt!r}"
