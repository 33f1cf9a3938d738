"""CLIP score: the similarity of an image and a prompt, by any model of open_clip."""

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

__all__ = ["ClipScore"]


class ClipScore(Reward):
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

    model: Any  # open_clip's classes share encode_image and encode_text, and no base class
    preprocess: Preprocess

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
        prompt: str | None = None,
        scale: float = 1.0,
    ) -> None:
        own = shipped(CLIP)
        if model.endswith(".safetensors") or model in own:
            if pretrained is not None:
                raise ValueError(f"'{model}' has its weights: leave out pretrained={pretrained!r}")
            small = load_clip(model)
            self.assemble(small.clip, small.tokenizer, prompt, scale)
        else:
            self.assemble(*open_clip_model(model, pretrained, own), prompt, scale)

    @classmethod
    def from_model(
        cls, model: nn.Module, tokenizer: Tokenizer, prompt: str | None = None, scale: float = 1.0
    ) -> "ClipScore":
        """Build the reward from a model and its tokenizer; the model is frozen in place."""
        score = cls.__new__(cls)
        score.assemble(model, tokenizer, prompt, scale)
        return score

    def assemble(
        self, model: nn.Module, tokenizer: Tokenizer, prompt: str | None, scale: float
    ) -> None:
        """Set the attributes; what both constructors share."""
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.scale = float(scale)
        self.preprocess = Preprocess(preprocess_config(model)).to(next(model.parameters()))
        self.embeddings: dict[str, Tensor] = {}
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        texts = [self.embedding(prompt) for prompt in self.prompts(cond, len(x))]
        images = self.model.encode_image(self.preprocess(x), normalize=True)
        return self.scale * (images * torch.stack(texts).to(images)).sum(-1)

    def prompts(self, cond: Cond, samples: int) -> Sequence[str]:
        """Return the prompt of each sample. Raises ValueError if one is missing."""
        if self.prompt is not None:
            return [self.prompt] * samples
        cond = field(cond, "texts")
        if (
            not isinstance(cond, list | tuple)
            or len(cond) != samples
            or not all(isinstance(p, str) for p in cond)
        ):
            got = f"{len(cond)} entries" if isinstance(cond, list | tuple) else type(cond).__name__
            raise ValueError(
                f"ClipScore: expected a list of {samples} prompts in cond, got {got}: set prompt="
            )
        return cond

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

    def _apply(self, fn: Any, recurse: bool = True) -> "ClipScore":
        """Forget the embeddings when the model moves to another device or precision."""
        self.embeddings = {}
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"prompt={self.prompt!r}, scale={self.scale:g}"
