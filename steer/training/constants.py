"""Autograd's constants, repeated when a computation runs again on other weights.

A finite difference of a loss whose target stands behind detach() or no_grad() is the derivative of
another function than autograd's, unless the target stays what it was. Autograd's constants are the
tensors that need no gradient when they meet one that does, or when they enter a forward-mode
derivative. The first run notes each of them, and later runs are given the same values in their
place, whichever network or objective they come from.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from steer.conditions import Condition


class Constants(TorchFunctionMode):
    """A mode that notes the constants of a computation and gives them to its later runs.

        constants = Constants()
        with constants:
            loss = f()
        with constants:
            again = f()      # with other weights, but the constants of the first run

    All runs must go through the same operations in the same order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Tensor] = []
        self.runs = 0
        self.place = 0

    def __enter__(self) -> Any:
        self.runs += 1
        self.place = 0
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if name == "detach" and wrapped(args[0]):
            return self.shifted(func(*args, **kwargs))
        everything = tensors((args, kwargs))
        if name == "_make_dual" or any(wrapped(x) or x.requires_grad for x in everything):
            written = args[:1] if writes(name) else ()
            args = (*written, *mapped(self.same, args[len(written) :]))
            kwargs = mapped(self.same, kwargs)
        return func(*args, **kwargs)

    def same(self, x: Tensor) -> Tensor:
        """Returns a constant as it was in the first run; anything else as it is."""
        return x if wrapped(x) or x.requires_grad else self.first(x)

    def first(self, x: Tensor) -> Tensor:
        """Returns the constant at this place of the first run."""
        if self.runs == 1:
            self.noted.append(x.detach().clone())
            return x
        self.place += 1
        return self.noted[self.place - 1]

    def shifted(self, x: Tensor) -> Tensor:
        """Moves a constant inside a forward-mode derivative to what it was in the first run."""
        inner = x
        while wrapped(inner):
            inner = torch._C._functorch.get_unwrapped(inner)
        with torch.no_grad():
            moved = self.first(inner) - inner
        return x + moved


def wrapped(x: Tensor) -> bool:
    """Whether a tensor is inside a torch.func transform."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def writes(name: str) -> bool:
    """Whether an operation of that name writes into its first argument."""
    in_place = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__set__")
    return name in in_place or (name.endswith("_") and not name.endswith("__"))


def tensors(tree: Any) -> Iterator[Tensor]:
    """Iterates over the tensors in nested tuples, lists, dicts and conditions."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Condition):
        yield from tensors(dict(tree.fields))
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)


def mapped(f: Callable[[Tensor], Any], tree: Any) -> Any:
    """Applies f to every tensor of a nesting."""
    if isinstance(tree, Tensor):
        return f(tree)
    if isinstance(tree, Condition):
        return tree.map(f)
    if isinstance(tree, dict):
        return {key: mapped(f, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = [mapped(f, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree
