"""A small ImageReward of random weights by the published names, and what it should compute.

The image tower is timm's vision transformer, whose names BLIP took over, and the text encoder a
BERT with cross-attention, whose token types, which BLIP dropped, are zero.
"""

from itertools import pairwise

import torch
from torch import nn

WIDTH = 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "boot", "heart", "##s", "on"]


class Reference(nn.Module):
    """ImageReward put together of timm and BERT."""

    def __init__(self):
        from timm.models import VisionTransformer
        from transformers import BertConfig, BertModel

        super().__init__()
        self.vision = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0
        )
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=96,
            max_position_embeddings=40,
            is_decoder=True,
            add_cross_attention=True,
        )
        self.text = BertModel(config, add_pooling_layer=False)
        sizes = (WIDTH, 1024, 128, 64, 16, 1)
        self.head = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
        for parameter in self.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        self.text.embeddings.token_type_embeddings.weight.data.zero_()
        self.eval().requires_grad_(False)

    def forward(self, pixels, ids, mask):
        images = self.vision.forward_features(pixels)
        both_ways = mask[:, None, None].expand(-1, 1, ids.shape[1], -1).to(pixels)
        states = self.text(
            ids,
            attention_mask=(1 - both_ways) * torch.finfo(pixels.dtype).min,
            encoder_hidden_states=images,
        ).last_hidden_state
        return (self.head(states[:, 0]).squeeze(-1) - 0.16717362830052426) / 1.0333394966054072

    def published(self):
        """The weights by the names of the authors' code."""
        numbers = (0, 2, 4, 6, 7)  # between them are layers of dropout
        heads = {
            f"mlp.layers.{number}.{kind}": getattr(layer, kind)
            for number, layer in zip(numbers, self.head, strict=True)
            for kind in ("weight", "bias")
        }
        vision = {f"blip.visual_encoder.{k}": v for k, v in self.vision.state_dict().items()}
        text = {
            f"blip.text_encoder.{k}": v
            for k, v in self.text.state_dict().items()
            if "token_type" not in k
        }
        ids = {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}
        return {**vision, **text, **ids, **heads}


def save(folder):
    """Writes weights and vocabulary; returns the reference and the paths."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        reference = Reference()
    torch.save(reference.published(), folder / "ImageReward.pt")
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    return reference, str(folder / "ImageReward.pt"), str(folder / "bert")
