"""A small CLIP trained by this project: a model of open_clip with a vocabulary of words."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rewards.networks import ImageEncoder
from rewards.open_clip_model import import_open_clip, preprocess_config
from rewards.preprocess import Preprocess
from rewards.word_tokenizer import WordTokenizer
from steer.annotations import Count, refuse_misfits
from steer.nearest import hint

CONTEXT_LENGTH = 16


class SmallClip(ImageEncoder):
    """Embeddings of images in [0, 1] and of texts in one space, by `open_clip.CLIP`.

    Reference: Radford et al. 2021, arXiv:2103.00020.

    Args:
        words: the vocabulary of its texts, see `WordTokenizer`.
        embed_dim: of the common space.
        vision: fields of `open_clip.CLIPVisionCfg`: image_size, width, layers, head_width, and
            patch_size for a vision transformer; a list of four as layers makes a ResNet. Images of
            another size are resized.
        text: fields of `open_clip.CLIPTextCfg`: width, heads, layers, and context_length (16 by
            default); the size of the vocabulary follows from the words.

    Attributes:
        clip: the model of open_clip.
        tokenizer: texts -> ids.
        settings: the arguments that build it again, kept in checkpoints.
        width: of the space, `embed_dim`.

    Raises:
        ValueError: fields that open_clip does not know, or settings from which it cannot build.
    """

    def __init__(
        self,
        words: Sequence[str],
        embed_dim: Count,
        vision: Mapping[str, Any],
        text: Mapping[str, Any],
    ) -> None:
        super().__init__()
        open_clip = import_open_clip()
        text = {"context_length": CONTEXT_LENGTH, **text}
        self.width = embed_dim
        self.settings = {
            "words": list(words),
            "embed_dim": embed_dim,
            "vision": dict(vision),
            "text": text,
        }
        check("vision", vision, open_clip.CLIPVisionCfg)
        check("text", text, open_clip.CLIPTextCfg, but=("vocab_size", "pool_type"))
        self.tokenizer = WordTokenizer(words, text["context_length"])
        try:
            self.clip = open_clip.CLIP(
                embed_dim,
                open_clip.CLIPVisionCfg(**vision),
                open_clip.CLIPTextCfg(**text, vocab_size=self.tokenizer.vocab_size),
            )
        except (RuntimeError, TypeError, AssertionError, ArithmeticError) as error:
            raise ValueError(
                f"open_clip builds no model of vision={dict(vision)} and text={dict(text)}:"
                f" {type(error).__name__}: {error}"
            ) from error
        self.preprocess = Preprocess(preprocess_config(self.clip))

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the learned inverse temperature."""
        return self.clip.logit_scale

    def encode_image(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Compute the unit embeddings of images in [0, 1]."""
        return F.normalize(self.clip.encode_image(self.preprocess(x)), dim=-1)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Compute the same: images are compared in the common space."""
        return self.encode_image(x)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "b e"]:
        """Compute the unit embeddings of texts.

        Raises:
            ValueError: for an empty text, one that is too long, or unknown words.
        """
        ids = self.tokenizer(texts).to(self.logit_scale.device)
        return F.normalize(self.clip.encode_text(ids), dim=-1)


def check(name: str, given: Mapping[str, Any], config: type, but: Sequence[str] = ()) -> None:
    """Raise ValueError for what is no field of a config of open_clip, or no value of its kind.

    Args:
        name: of the tower, for errors.
        given: its fields.
        config: the class of open_clip.
        but: fields that are set here.
    """
    known = [each.name for each in fields(config) if each.name not in but]
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{name} has no {key!r}: {hint(key, known)}")
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ValueError(f"{name}.{key} must be at least 1; got {value}")
    refuse_misfits(config, given, f"{name}.")
