"""A transformer for images (DiT), with patches as tokens, modulated by times and condition.

Blocks are those of Peebles & Xie 2022 (DiT, arXiv 2212.09748), which are initially the identity.
Queries and keys are normalised (Henry et al. 2020, arXiv 2010.04245), which bounds the attention
logits, and with them the derivative in time. Attention is written as two matrix products because
fused attention has no forward-mode rule on CPU.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from steer.construction import remembered
from steer.flow_map import Cond
from steer.networks.conditioning import (
    ConditionEmbedding,
    NoCondition,
    TimeEmbedding,
    check_width,
)
from steer.networks.normalisation import LayerNorm
from steer.networks.recomputing import keep_from_compiler, recompute
from steer.networks.shapes import check_images

__all__ = ["Transformer"]


class SelfAttention(nn.Module):
    """Self-attention with `heads` heads, on the cosine between queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        # the log of the inverse temperature of the softmax
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))

    def forward(self, h: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (F.normalize(r, dim=-1) for r in (q, k))
        weights = torch.softmax(self.sharpness.exp() * (q @ k.transpose(-1, -2)), dim=-1)
        return self.project((weights.to(v) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A DiT block: h + gate attention(norm(h)), then h + gate perceptron(norm(h)).

    Scale and shift after each norm, and the gates, are linear in the embedding.
    """

    def __init__(self, width: int, heads: int, dim: int):
        super().__init__()
        self.norm = LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.modulate = nn.Linear(dim, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, h: Float[Tensor, "b n d"], embedding: Float[Tensor, "b dim"]
    ) -> Float[Tensor, "b n d"]:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulate(embedding)[:, None].chunk(
            6, dim=2
        )
        h = h + gate1 * self.attention(self.norm(h) * (1 + scale1) + shift1)
        return h + gate2 * self.perceptron(self.norm(h) * (1 + scale2) + shift2)


@remembered
class Transformer(nn.Module):
    """A transformer u_{s,t}(x) for images (B, image_channels, H, W) whose sides divide by `patch`.

    Args:
        image_channels: channels of x.
        width: of a token; a multiple of 4 and of `heads`.
        depth: blocks.
        heads: of attention.
        patch: side of the pixel blocks that are the tokens.
        condition: the embedding of cond, a ConditionEmbedding of size `width`; none by default.
        beside: channels of a second input image.
        recompute: gradient checkpointing: keep no activations inside blocks and compute them again
            in the backward pass.

    Raises:
        ValueError: a width that is no multiple of 4 and of `heads`.
        WrongShape: when called, for other images.
    """

    def __init__(
        self,
        image_channels: int = 1,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        patch: int = 4,
        condition: ConditionEmbedding | None = None,
        beside: int = 0,
        recompute: bool = False,
    ):
        super().__init__()
        if width % 4 or width % heads:
            raise ValueError(
                f"width is a multiple of 4 and of heads; got width={width}, heads={heads}"
            )
        self.image_channels = image_channels
        self.patch = patch
        self.width = width
        self.recompute = recompute
        if recompute:
            keep_from_compiler()
        self.condition = condition or NoCondition()
        check_width(self.condition, width, "Transformer", "its width")
        self.times = TimeEmbedding(width)
        self.enter = nn.Conv2d(image_channels + beside, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(width, heads, width) for _ in range(depth))
        self.norm = LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, image_channels * patch**2)
        for layer in (self.modulate, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
        beside: Float[Tensor, "b more h w"] | None = None,
    ) -> Float[Tensor, "b *shape"]:
        check_images(x, self.image_channels, self.patch, "Transformer")
        embedding = self.times(s, t)
        embedding = F.silu(embedding + self.condition(cond, like=embedding))
        h = self.enter(x if beside is None else torch.cat((x, beside), dim=1))
        rows, columns = h.shape[-2:]
        h = h.flatten(2).transpose(1, 2) + places(rows, columns, self.width).to(h)
        for block in self.blocks:
            h = recompute(block, h, embedding) if self.recompute else block(h, embedding)
        scale, shift = self.modulate(embedding)[:, None].chunk(2, dim=2)
        out = self.leave(self.norm(h) * (1 + scale) + shift).transpose(1, 2)
        return F.pixel_shuffle(out.unflatten(2, (rows, columns)), self.patch)


def places(rows: int, columns: int, width: int) -> Float[Tensor, "n width"]:
    """Compute sines and cosines of the row, then of the column, of tokens (Vaswani et al. 2017)."""
    quarter = width // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = (torch.arange(max(rows, columns), dtype=torch.float64)[:, None] * frequencies).repeat(
        1, 2
    )
    angles[:, quarter:] -= math.pi / 2  # cos(a - pi/2) = sin(a)
    waves = angles.cos()
    row, column = (
        waves[:rows, None].expand(-1, columns, -1),
        waves[None, :columns].expand(rows, -1, -1),
    )
    return torch.cat((row, column), dim=2).flatten(0, 1)
