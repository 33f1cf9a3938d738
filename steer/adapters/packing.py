"""Latents as tokens: blocks of 2 by 2 as channels, rows of tokens, and their places."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def packed(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    """Packs latents to tokens of 2 by 2 of them, (B, H W / 4, 4 C)."""
    return tokens(F.pixel_unshuffle(x, 2))


def unpacked(x: Float[Tensor, "b n d"], rows: int, columns: int) -> Float[Tensor, "b c h w"]:
    """Unpacks tokens of 2 by 2 latents."""
    return F.pixel_shuffle(image(x, rows, columns), 2)


def tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Lines pixels up as tokens, row by row."""
    return x.flatten(2).transpose(1, 2)


def image(x: Float[Tensor, "b n c"], rows: int, columns: int) -> Float[Tensor, "b c h w"]:
    """Puts tokens in rows and columns."""
    return x.transpose(1, 2).unflatten(2, (rows, columns))


def places(rows: int, columns: int, device: torch.device, scale: float = 1.0) -> Tensor:
    """Lists the positions (t, row, column, l) of image tokens, (rows * columns, 4)."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    zero = torch.zeros(1, device=device)
    return torch.cartesian_prod(zero, row * scale, column * scale, zero)


def text_places(length: int, device: torch.device) -> Tensor:
    """Lists the positions (t, row, column, l) of text tokens, (length, 4)."""
    zero = torch.zeros(1, device=device)
    return torch.cartesian_prod(zero, zero, zero, torch.arange(length, device=device).float())
