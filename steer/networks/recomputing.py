"""Activation checkpointing that also works in forward mode: a block keeps its inputs alone and is
run again in backward.

torch.utils.checkpoint cannot be differentiated inside `torch.func.jvp`: what it saves there is not
what it saves when it
runs again outside. Here a block is a function of its own with a rule for either mode, and the
tangent that forward mode asks for is again such a function, so that objectives with d_t u or d_s u
recompute as flow matching does. A block then costs one more forward; under forward mode its value
and its tangent are computed apart, and each again in backward, which makes a step of Lagrangian
self-distillation about 1.4 times as long. The idea: Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

Run = Callable[..., Tensor]


@torch.compiler.disable
def recompute(module: nn.Module, *inputs: Tensor) -> Tensor:
    """module(*inputs), keeping no activation inside it. The module must draw nothing at random (no
    dropout).

    For one backward, be it through forward mode (torch.func.jvp). Not for torch.func.grad or vmap.

    Raises:
        RuntimeError: in a backward with create_graph=True, whose gradient could not be
            differentiated.
    """
    if not torch.is_grad_enabled():
        return module(*inputs)
    learned = dict(module.named_parameters())
    device = inputs[0].device.type
    half = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)

    def run(*tensors: Tensor) -> Tensor:
        inner, own = tensors[: len(inputs)], tensors[len(inputs) :]
        with torch.autocast(device, dtype, half):
            return functional_call(module, dict(zip(learned, own, strict=True)), inner)

    return _Value.apply(run, *inputs, *learned.values())


class _Value(torch.autograd.Function):
    """run(*tensors)."""

    @staticmethod
    def forward(run: Run, *tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return run(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.run = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "recomputed blocks have no gradient of a gradient; build the network with recompute=False"
            )
        return (None, *_gradients(ctx.run, ctx.saved_tensors, gradient, ctx.needs_input_grad[1:]))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        primals = ctx.saved_tensors
        moving = [k for k, tangent in enumerate(tangents) if tangent is not None]

        def tangent(*tensors: Tensor) -> Tensor:
            own, along = tensors[: len(primals)], tensors[len(primals) :]

            def of_moving(*moved: Tensor) -> Tensor:
                whole = list(own)
                for k, value in zip(moving, moved, strict=True):
                    whole[k] = value
                return ctx.run(*whole)

            return jvp(of_moving, tuple(own[k] for k in moving), along)[1]

        return _Value.apply(tangent, *primals, *(tangents[k] for k in moving))


def _gradients(
    run: Run, tensors: tuple[Tensor, ...], gradient: Tensor | None, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * len(tensors)
    with torch.enable_grad():
        again = [x.detach().requires_grad_(due) for x, due in zip(tensors, needed, strict=True)]
        learned = [x for x in again if x.requires_grad]
        found = iter(torch.autograd.grad(run(*again), learned, gradient, allow_unused=True))
    return tuple(next(found) if x.requires_grad else None for x in again)
