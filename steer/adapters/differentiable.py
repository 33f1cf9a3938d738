"""What derivatives of the library's transformers need: plain attention, and recomputation."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

__all__ = ["attention_for", "recomputed"]


def recomputed(block: nn.Module, *inputs: Any, **keywords: Any) -> Any:
    """Calls a block without keeping its activations, with keywords too, as some families do."""
    return checkpoint(block, *inputs, use_reentrant=False, **keywords)


def attention_for(*tensors: Tensor) -> Any:
    """The context in which attention can be differentiated in forward mode, where that is asked.

    Fused attention has no forward-mode rule; the plain one has.
    """
    if any(is_functorch_wrapped_tensor(x) or is_dual(x) for x in tensors):
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def is_dual(x: Tensor) -> bool:
    """Whether a tensor carries a tangent."""
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None
