"""The base class of rewards by a CLIP: embeddings of images and prompts in one space."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.base import Cond, Reward
from rewards.checkpoint import CLIP, load_clip, shipped
from rewards.open_clip_model import Tokenizer, open_clip_model, preprocess_config
from rewards.preprocess import Preprocess
from steer.conditions import field


class ImageTextReward(Reward):
    """A reward by the unit embeddings f(x) of images and g(y) of texts.

    Args:
        model: a model of open_clip; frozen in place.
        tokenizer: texts -> ids.
        prompt: y, the same for every sample; None takes each sample's own from cond, a list of b
            strings, or the `texts` of a steer.Condition.
        preprocessing: what takes the place of the model's own settings, see `Preprocess`.
    """

    model: Any  # open_clip's classes share encode_image and encode_text, and no base class
    preprocess: Preprocess

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        prompt: str | None = None,
        **preprocessing: Any,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt
        config = preprocess_config(model) | preprocessing
        self.preprocess = Preprocess(config).to(next(model.parameters()))
        self.embeddings: dict[str, Tensor] = {}
        self.freeze()

    def images(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Compute f(x), of length 1, of images clamped to [0, 1].

        Encoders have seen 8-bit pictures alone: beyond that range a score could be raised at will,
        and the picture that is saved would not have it. Pixels outside have no gradient.
        """
        return self.model.encode_image(self.preprocess(x.clamp(0, 1)), normalize=True)

    def texts(self, cond: Cond, samples: int) -> Float[Tensor, "b e"]:
        """Compute g(y) of each sample's prompt, of length 1."""
        return torch.stack([self.embedding(prompt) for prompt in self.prompts(cond, samples)])

    def prompts(self, cond: Cond, samples: int) -> Sequence[str]:
        """Return the prompt of each sample. Raises ValueError if one is missing."""
        if self.prompt is not None:
            return [self.prompt] * samples
        return texts_of(cond, samples, type(self).__name__)

    def embedding(self, prompt: str) -> Float[Tensor, " e"]:
        """Compute g(y), once per prompt and alone, so that no other prompt changes its rounding."""
        if prompt not in self.embeddings:
            device = self.preprocess.mean.device
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(device.type, enabled=False),
            ):
                text = self.model.encode_text(self.tokenizer([prompt]).to(device))
                self.embeddings[prompt] = F.normalize(text, dim=-1).squeeze(0)
        return self.embeddings[prompt]

    def _apply(self, fn: Any, recurse: bool = True) -> "ImageTextReward":
        """Forget the embeddings when the model moves to another device or precision."""
        self.embeddings = {}
        return super()._apply(fn, recurse)


def texts_of(cond: Cond, samples: int, reward: str) -> Sequence[str]:
    """Return the prompt of each sample.

    Args:
        cond: a list of texts, or a Condition with `texts`.
        samples: how many there are.
        reward: who asks, for the error.

    Raises:
        ValueError: anything else.
    """
    cond = field(cond, "texts")
    if (
        not isinstance(cond, list | tuple)
        or len(cond) != samples
        or not all(isinstance(p, str) for p in cond)
    ):
        got = f"{len(cond)} entries" if isinstance(cond, list | tuple) else type(cond).__name__
        raise ValueError(
            f"{reward}: expected a list of {samples} prompts in cond, got {got}: set prompt="
        )
    return cond


def clip_of(model: str, pretrained: str | None) -> tuple[nn.Module, Tokenizer]:
    """Load a CLIP and its tokenizer.

    Args:
        model: a small CLIP of this project by its shipped name or .safetensors file (see
            `load_clip`); or open_clip's name ("ViT-B-32"), or "hf-hub:owner/name", or
            "local-dir:/a/folder".
        pretrained: one of open_clip's tags for that model, or a checkpoint file; none for a small
            CLIP.

    Raises:
        ValueError: the model or its weights are unknown or unreadable, or open_clip cannot be
            imported.
    """
    own = shipped(CLIP)
    if not model.endswith(".safetensors") and model not in own:
        return open_clip_model(model, pretrained, own)
    if pretrained is not None:
        raise ValueError(f"'{model}' has its weights: leave out pretrained={pretrained!r}")
    small = load_clip(model)
    return small.clip, small.tokenizer
