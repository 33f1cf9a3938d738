"""The weights of a `transformers.CLIPModel` by the names that open_clip gives them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

WHOLE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelt so by transformers
    "vision_model.post_layernorm": "visual.ln_post",
}
BLOCKS = {"text_model": "transformer.resblocks", "vision_model": "visual.transformer.resblocks"}
PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
BLOCK = re.compile(r"(\w+)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def to_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a `transformers.CLIPModel` for the `open_clip.CLIP` of the same sizes.

    Queries, keys and values of a block become one matrix, and both projections are transposed.

    Args:
        weights: the state of a CLIPModel; position ids, which old files hold, are left out.

    Raises:
        ValueError: a name that no CLIPModel has.
    """
    found = {}
    for name, value in weights.items():
        stem, _, kind = name.rpartition(".")
        block = BLOCK.fullmatch(name)
        if name in WHOLE:
            found[WHOLE[name]] = value
        elif name in TRANSPOSED:
            found[TRANSPOSED[name]] = value.T.contiguous()
        elif stem in NORMS:
            found[f"{NORMS[stem]}.{kind}"] = value
        elif block is not None and block[1] in BLOCKS and block[3] in PARTS:
            found[f"{BLOCKS[block[1]]}.{block[2]}.{PARTS[block[3]]}.{block[4]}"] = value
        elif block is not None and block[1] in BLOCKS and block[3] == "self_attn.q_proj":
            three = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"{BLOCKS[block[1]]}.{block[2]}.attn.in_proj_{block[4]}"] = torch.cat(three)
        elif not name.endswith(("position_ids", *(f"self_attn.{k}_proj.{kind}" for k in "kv"))):
            raise ValueError(f"{name!r} is no weight of a transformers.CLIPModel")
    return found
