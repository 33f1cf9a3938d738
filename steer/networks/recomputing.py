"""Gradient checkpointing that also works in forward mode.

A block keeps its inputs alone and is run again in the backward pass. torch.utils.checkpoint cannot
be differentiated inside `torch.func.jvp`, where it saves other tensors than when it runs again
outside. Here a block is an autograd function with a rule for either mode, and its tangent in
forward mode is again such a function, so that objectives with d_t u or d_s u can recompute as well.
A block then costs one more forward; under forward mode its value and its tangent are computed
separately, and each again in the backward pass, which makes a step of Lagrangian self-distillation
about 1.4 times as long.

Reference: Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

Run = Callable[..., Tensor]


def recompute(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Compute module(*inputs) without keeping activations; the module must be deterministic.

    It supports one backward, also through forward mode (torch.func.jvp), but neither
    torch.func.grad nor vmap.

    Raises:
        RuntimeError: in a backward with create_graph=True, whose result could not be
            differentiated.
    """
    return _called(module, *inputs)


def keep_from_compiler() -> None:
    """Make torch.compile leave `recompute` alone; networks that recompute call it when built.

    It loads the compiler, which takes longer than all else that `import steer` does.
    """
    global _called
    _called = torch.compiler.disable(_recompute)


def _recompute(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Compute module(*inputs) by a `_Value`."""
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


_called: Callable[..., Tensor] = _recompute


class _Value(torch.autograd.Function):
    """The function run(*tensors), whose backward and forward-mode rules run it again."""

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
                "recomputed blocks have no second derivative in reverse mode; "
                "build the network with recompute=False"
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
    """Run again with gradients, and compute those of the tensors that need one."""
    if gradient is None:
        return (None,) * len(tensors)
    with torch.enable_grad():
        again = [x.detach().requires_grad_(due) for x, due in zip(tensors, needed, strict=True)]
        learned = [x for x in again if x.requires_grad]
        found = iter(torch.autograd.grad(run(*again), learned, gradient, allow_unused=True))
    return tuple(next(found) if x.requires_grad else None for x in again)
