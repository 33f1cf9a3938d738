"""CLIP score: the similarity of an image and a prompt, by any model of open_clip."""

from jaxtyping import Float
from torch import Tensor, nn

from rewards.base import Cond
from rewards.image_text import ImageTextReward, clip_of
from rewards.open_clip_model import Tokenizer

__all__ = ["ClipScore"]


class ClipScore(ImageTextReward):
    """r(x, y) = scale <f(x), g(y)>, the cosine of image embedding f and text embedding g.

    The cosine of published models is typically .15 to .35. Tested on small models of open_clip,
    with random weights and trained here; not yet run on published weights.

    References: Radford et al. 2021, arXiv:2103.00020 (CLIP); Hessel et al. 2021, arXiv:2104.08718
    (CLIPScore, 2.5 times this where positive); Ilharco et al. 2021 (open_clip).

    Args:
        model: a small CLIP of this project by its shipped name or .safetensors file (see
            `load_clip`); or open_clip's name ("ViT-B-32"), or "hf-hub:owner/name", or
            "local-dir:/a/folder"; take the "-quickgelu" name for weights trained so, as OpenAI's
            were.
        pretrained: one of open_clip's tags for that model ("laion2b_s34b_b79k"), or a checkpoint
            file; none for a small CLIP.
        prompt: y, the same for every sample; None takes each sample's own from cond, a list of b
            strings, or the `texts` of a steer.Condition.
        scale: 1 for the plain cosine; CLIP's own logits have about 100.

    Raises:
        ValueError: if the model or its weights are unknown or unreadable, or open_clip cannot be
            imported; when called, if prompts are missing or not understood, or images are neither
            greyscale nor RGB.
    """

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
        prompt: str | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(*clip_of(model, pretrained), prompt)
        self.scale = float(scale)

    @classmethod
    def from_model(
        cls, model: nn.Module, tokenizer: Tokenizer, prompt: str | None = None, scale: float = 1.0
    ) -> "ClipScore":
        """Build the reward from a model and its tokenizer; the model is frozen in place."""
        score = cls.__new__(cls)
        ImageTextReward.__init__(score, model, tokenizer, prompt)
        score.scale = float(scale)
        return score

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        texts = self.texts(cond, len(x))
        images = self.images(x)
        return self.scale * (images * texts.to(images)).sum(-1)

    def extra_repr(self) -> str:
        return f"prompt={self.prompt!r}, scale={self.scale:g}"
