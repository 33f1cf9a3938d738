"""A small U-Net for images, whose residual blocks are modulated by times and condition.

Every operation has a forward-mode rule on every backend; attention is written as two matrix
products because fused attention has none on CPU. Blocks are those of Dhariwal & Nichol 2021 (arXiv
2105.05233), at a hundredth of the size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from steer.construction import remembered
from steer.flow_map import Cond
from steer.networks.conditioning import (
    ConditionEmbedding,
    NoCondition,
    TimeEmbedding,
    Tokens,
    check_width,
)
from steer.networks.masked_attention import MaskedAttention
from steer.networks.normalisation import GroupNorm
from steer.networks.recomputing import keep_from_compiler, recompute
from steer.networks.shapes import check_images

__all__ = ["UNet"]

GROUPS = 8  # of every normalisation


class ResidualBlock(nn.Module):
    """A residual block, x + conv(silu((1 + scale) norm(conv(silu(norm(x)))) + shift)).

    Scale and shift are linear in the embedding.
    """

    def __init__(self, inputs: int, outputs: int, dim: int):
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(dim, 2 * outputs)
        self.norm2 = GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b dim"]
    ) -> Float[Tensor, "b c2 h w"]:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


class Attention(nn.Module):
    """Self-attention over pixels, x + project(softmax(q k / sqrt(d)) v), with `heads` heads."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = torch.softmax(q.transpose(-1, -2) @ k / q.shape[-2] ** 0.5, dim=-1)
        return x + self.project((v @ weights.transpose(-1, -2)).reshape(x.shape))


class CrossAttention(nn.Module):
    """Cross-attention from pixels to tokens, x + project(softmax(q k / sqrt(d)) v)."""

    def __init__(self, channels: int, token_width: int, heads: int = 4):
        super().__init__()
        self.norm = GroupNorm(GROUPS, channels)
        self.attention = MaskedAttention(channels, token_width, heads)
        nn.init.zeros_(self.attention.project.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        tokens: Float[Tensor, "b n e"],
        mask: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b c h w"]:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(h, tokens, mask).transpose(1, 2).reshape(x.shape)


@remembered
class UNet(nn.Module):
    """A U-Net u_{s,t}(x) for images (B, image_channels, H, W).

    Sides must be multiples of patch * 2**(levels - 1).

    Args:
        image_channels: channels of x.
        channels: width at each level; the side halves from one to the next.
        blocks: residual blocks at each level, on the way down and again on the way up.
        patch: side of the pixel blocks that become channels before the first level, and pixels
            again after the last.
        condition: the embedding of cond, of size 4 * channels[0]; none by default. If it has
            tokens, the last level and the middle attend to them.
        beside: channels of a second input image.
        recompute: gradient checkpointing: keep no activations inside blocks and compute them again
            in the backward pass.

    Raises:
        ValueError: channels that are no multiples of 8, or a condition of another size.
        WrongShape: when called, for other images.
    """

    def __init__(
        self,
        image_channels: int = 1,
        channels: Sequence[int] = (64, 128),
        blocks: int = 2,
        patch: int = 2,
        condition: ConditionEmbedding | None = None,
        beside: int = 0,
        recompute: bool = False,
    ):
        super().__init__()
        if not channels or any(c < 1 or c % GROUPS for c in channels):
            raise ValueError(
                f"channels has a multiple of {GROUPS} for each level, such as (64, 128), since"
                f" each is normalised in {GROUPS} groups; got {tuple(channels)}"
            )
        dim = 4 * channels[0]
        self.image_channels = image_channels
        self.patch = patch
        self.recompute = recompute
        if recompute:
            keep_from_compiler()
        self.condition = condition or NoCondition()
        check_width(self.condition, dim, "UNet", f"4 channels[0], of channels[0]={channels[0]}")
        self.times = TimeEmbedding(dim)
        self.enter = nn.Conv2d((image_channels + beside) * patch**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        width = channels[0]
        skips = []
        for level, c in enumerate(channels):
            stage = nn.ModuleList([nn.Conv2d(width, c, 3, stride=2, padding=1)] if level else [])
            width = c
            stage.extend(ResidualBlock(c, c, dim) for _ in range(blocks))
            skips.extend([c] * blocks)
            self.down.append(stage)
        self.middle = nn.ModuleList(
            [ResidualBlock(width, width, dim), Attention(width), ResidualBlock(width, width, dim)]
        )
        last = stage
        if self.condition.token_width is not None:
            for attending in (last, self.middle):
                attending.append(CrossAttention(width, self.condition.token_width))
        for level, c in reversed(list(enumerate(channels))):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(ResidualBlock(width + skips.pop(), c, dim))
                width = c
            if level:
                stage.append(nn.Conv2d(c, channels[level - 1], 3, padding=1))
                width = channels[level - 1]
            self.up.append(stage)
        self.leave = nn.Sequential(
            GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, image_channels * patch**2, 3, padding=1),
        )
        # a third faster on CPU, and the layout of tensor cores
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
        beside: Float[Tensor, "b more h w"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        check_images(x, self.image_channels, self.patch * 2 ** (len(self.down) - 1), "UNet")
        embedding = self.times(s, t)
        vector, tokens = self.condition.encode(cond, like=embedding)
        embedding = F.silu(embedding + vector)
        h = self.enter(
            F.pixel_unshuffle(x if beside is None else torch.cat((x, beside), dim=1), self.patch)
        )
        skips = []
        for stage in self.down:
            for layer in stage.children():
                h = self.applied(layer, h, embedding, tokens)
                if isinstance(layer, ResidualBlock):
                    skips.append(h)
        for layer in self.middle:
            h = self.applied(layer, h, embedding, tokens)
        for stage in self.up:
            for layer in stage.children():
                if isinstance(layer, ResidualBlock):
                    h = self.run(layer, torch.cat((h, skips.pop()), dim=1), embedding)
                else:
                    h = layer(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.leave(h), self.patch)

    def applied(
        self, layer: nn.Module, h: Tensor, embedding: Tensor, tokens: Tokens | None
    ) -> Tensor:
        """Apply a layer of the way down or of the middle to what it takes."""
        if isinstance(layer, ResidualBlock):
            return self.run(layer, h, embedding)
        if isinstance(layer, CrossAttention):
            assert tokens is not None
            return self.run(layer, h, *tokens)
        return self.run(layer, h) if isinstance(layer, Attention) else layer(h)

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Run a block, with or without gradient checkpointing."""
        return recompute(block, *inputs) if self.recompute else block(*inputs)
