"""ImageReward: what people preferred among pictures of a prompt, by a tuned BLIP."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.aesthetic import RatingHead
from rewards.base import Cond, Reward
from rewards.image_text import texts_of
from rewards.preprocess import Preprocess
from rewards.weight_files import load_weights, read_weights, weight_file

__all__ = ["ImageReward"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64  # of every attention of BLIP and BERT
LONGEST = 35  # tokens of a prompt
VISION = {  # the names of BLIP's image tower as transformers has them
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class ImageReward(Reward):
    """r(x, y) = (MLP(h(x, y)) - .1672) / 1.0333, with h BLIP's text encoder looking at the picture.

    Over usual pictures it has about mean 0 and standard deviation 1. The sizes follow from the
    weights. Both towers are those of `transformers`; they are tested on small weights of the
    published names against timm's vision transformer and a BERT with cross-attention, and the
    whole was not yet run on the published weights.

    Reference: Xu et al. 2023, ImageReward, arXiv:2304.05977. Weights: Apache-2.0.

    Args:
        weights: a file, or owner/name/file on the hub, by the names of the authors' own code.
        tokenizer: BERT's: a name on the hub or a folder.
        prompt: y, the same for every sample; None takes each sample's own from cond. What lies
            beyond 35 tokens is cut, as published.

    Raises:
        ValueError: if transformers, the weights or the tokenizer are missing, or the weights are no
            ImageReward; when called, if prompts are missing, or images are neither greyscale nor
            RGB.
    """

    vision: Any  # of transformers, imported when built
    text: Any

    SHIFT = 0.16717362830052426
    SPREAD = 1.0333394966054072

    def __init__(
        self,
        weights: str = "THUDM/ImageReward/ImageReward.pt",
        tokenizer: str = "bert-base-uncased",
        prompt: str | None = None,
    ) -> None:
        super().__init__()
        require_transformers()
        path = weight_file(weights)
        state = read_weights(path)
        vision = part_of(state, "blip.visual_encoder.")
        text = part_of(state, "blip.text_encoder.")
        head = part_of(state, "mlp.")
        if not (vision and text and head):
            raise ValueError(f"{path} holds no ImageReward: give the file ImageReward.pt")
        self.prompt = prompt
        self.tokenizer = tokenizer_of(tokenizer)
        self.vision = vision_tower(vision)
        self.text = text_tower(text)
        self.mlp = RatingHead(self.text.config.hidden_size)
        load_weights(self.vision, renamed(vision), path)
        load_weights(self.text, text, path)
        load_weights(self.mlp, head, path)
        size = self.vision.config.image_size
        self.preprocess = Preprocess({"size": size, "mean": MEAN, "std": STD})
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        tokens = self.tokens(self.prompts(cond, len(x)))
        images = self.vision(self.preprocess(x.clamp(0, 1))).last_hidden_state
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        states = self.text(
            ids.to(x.device),
            attention_mask=mask.to(x.device),
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], device=x.device).long(),
        ).last_hidden_state
        return (self.mlp(states[:, 0]).squeeze(-1) - self.SHIFT) / self.SPREAD

    def prompts(self, cond: Cond, samples: int) -> Sequence[str]:
        """Return the prompt of each sample. Raises ValueError if one is missing."""
        if self.prompt is not None:
            return [self.prompt] * samples
        return texts_of(cond, samples, "ImageReward")

    def tokens(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Compute ids and mask, each (b, 35)."""
        return self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        )

    def extra_repr(self) -> str:
        return f"prompt={self.prompt!r}"


def require_transformers() -> None:
    """Raise ValueError if transformers cannot be imported."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "ImageReward needs transformers: install it, as in pip install 'flowmap-steer[rewards]'"
        ) from error


def part_of(state: Mapping[str, Tensor], stem: str) -> dict[str, Tensor]:
    """Pick the weights below a name; those that are not position ids, which old files hold."""
    return {
        name.removeprefix(stem): value
        for name, value in state.items()
        if name.startswith(stem) and not name.endswith("position_ids")
    }


def tokenizer_of(name: str) -> Any:
    """Load BERT's tokenizer. Raises ValueError if it is neither here nor to be fetched."""
    from transformers import BertTokenizer  # slow to import

    try:
        return BertTokenizer.from_pretrained(name)
    except Exception as error:  # the hub raises errors of many kinds
        raise ValueError(
            f"tokenizer {name!r} is not here and cannot be fetched: run `hf download {name}` where "
            "the network is, or give a folder with its vocab.txt"
        ) from error


def renamed(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights of BLIP's image tower as transformers does."""
    found = {}
    for name, value in vision.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        stem, _, kind = name.rpartition(".")
        if block is not None and block[2] in VISION:
            found[f"encoder.layers.{block[1]}.{VISION[block[2]]}.{block[3]}"] = value
        elif name in VISION:
            found[VISION[name]] = value
        else:
            found[f"{VISION.get(stem, stem)}.{kind}"] = value
    return found


def depth(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the layers whose names match."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def vision_tower(state: Mapping[str, Tensor]) -> Any:
    """Build the image tower of the sizes of these weights."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=depth(state, r"blocks\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    return BlipVisionModel(config)


def text_tower(state: Mapping[str, Tensor]) -> Any:
    """Build the text encoder of the sizes of these weights."""
    from transformers import BlipTextConfig, BlipTextModel

    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=depth(state, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        layer_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )
    return BlipTextModel(config, add_pooling_layer="pooler.dense.weight" in state)
