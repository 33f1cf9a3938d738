"""Layer normalisation written out: torch's own has a wrong derivative of its tangent.

On torch 2.14 (CPU) the backward pass through a forward-mode tangent of `nn.LayerNorm` gives wrong
numbers and no error, and that of `nn.InstanceNorm2d` likewise. Values, tangents and gradients are
right; what an objective such as `Lagrangian` descends, the gradient of a tangent, is not. Sums,
products and roots have correct rules of every order.

Reference: Ba, Kiros & Hinton 2016, arXiv 1607.06450.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GroupNorm", "LayerNorm"]


class LayerNorm(nn.Module):
    """weight (x - mean) / sqrt(variance + eps) + bias over the last dimension, as nn.LayerNorm has
    it.

    Weights are called as there. Mean and variance are taken in float32 or better; the result has
    the dtype of x.

    Args:
        width: size of the last dimension.
        eps: added to the variance.
        elementwise_affine: with a learned weight and bias of that size; neither if False.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, width: int, eps: float = 1e-5, elementwise_affine: bool = True):
        super().__init__()
        if width < 1:
            raise ValueError(f"LayerNorm normalises over at least one number; got width={width}")
        self.width = width
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if elementwise_affine else None

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is None or self.bias is None:
            return normed.to(x.dtype)
        return (normed * self.weight + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm whose forward-mode tangent has the dtype of its value.

    For an input below its weights' precision, as under bf16-mixed on a CPU, the rule of torch 2.14
    may give a value in bfloat16 and a tangent in float32 (where memory is laid out channels first,
    as that of single samples may be), which the next convolution refuses. The result is cast up and
    back, which changes no value.
    """

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        y = super().forward(x)
        if self.weight is None or self.weight.dtype == y.dtype:
            return y
        return y.to(self.weight.dtype).to(y.dtype)
