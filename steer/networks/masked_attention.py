"""Attention to tokens of which some are padding."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedAttention(nn.Module):
    """Attention from queries to the tokens that a mask leaves, with `heads` heads.

    Queries and keys are normalised, as in `Transformer`, which bounds the derivative in time.
    Written as two matrix products because fused attention has no forward-mode rule on CPU.

    Raises:
        ValueError: a width that is no multiple of `heads`.
    """

    def __init__(self, width: int, token_width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width is a multiple of heads; got width={width}, heads={heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(token_width, 2 * width)
        self.project = nn.Linear(width, width)
        # the log of the inverse temperature of the softmax
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))

    def forward(
        self,
        h: Float[Tensor, "b m d"],
        tokens: Float[Tensor, "b n e"],
        mask: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b m d"]:
        q = self.query(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (F.normalize(r, dim=-1) for r in (q, k))
        logits = self.sharpness.exp() * (q @ k.transpose(-1, -2))
        logits = logits.masked_fill(~mask[:, None, None], float("-inf"))
        weights = torch.softmax(logits, dim=-1)
        return self.project((weights.to(v) @ v).transpose(1, 2).flatten(2))
