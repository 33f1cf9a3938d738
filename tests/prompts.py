"""Conditions of named fields with a known meaning, an embedding (B, 2), in whole numbers so that
sums of them have no rounding.
"""

import torch

from steer import Condition


def prompts(n, length=4, seed=0, dtype=torch.float64):
    """n different prompts of one to `length` tokens, with what stands beyond their end."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randint(-3, 4, shape, generator=generator).to(dtype)  # noqa: E731
    ends = torch.randint(1, length + 1, (n,), generator=generator)
    return Condition(
        tokens=draw(n, length, 2),
        mask=torch.arange(length) < ends[:, None],
        pooled=draw(n, 2),
        number=torch.arange(n, dtype=dtype),
    )


def meaning(cond):
    """The sum of the tokens under the mask, and the pooled embedding; of a tensor, itself."""
    if isinstance(cond, torch.Tensor):
        return cond
    return (cond.tokens * cond.mask[..., None]).sum(1) + cond.pooled


class Told(torch.nn.Module):
    """A small network of x, s, t and the meaning of the condition; none is zero."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
        self.first = torch.nn.Parameter(draw(6, 8) / 2)
        self.second = torch.nn.Parameter(draw(8, 2) / 4)

    def forward(self, x, s, t, cond=None):
        told = torch.zeros_like(x) if cond is None else meaning(cond).to(x)
        inputs = torch.cat((x, s[:, None].to(x), t[:, None].to(x), told), 1)
        return torch.tanh(inputs @ self.first.to(x)) @ self.second.to(x)
