"""Conditions of samples, and the argument of a reward that receives them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Cond = Any
"""None, or one entry per sample: class labels (b,), embeddings (b, e), or a list of b strings."""

CONDITIONS = ("cond", "condition", "label", "labels", "prompt", "prompts", "text", "texts", "y")
"""The names by which a reward may call its condition."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def for_particles(cond: Cond, particles: int) -> Cond:
    """Repeat the condition of each prompt for its particles, which lie side by side."""
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return cond.repeat_interleave(particles, dim=0)
    return [entry for entry in cond for _ in range(particles)]


def pick(cond: Cond, indices: Tensor | Sequence[int]) -> Cond:
    """Pick the entries at these indices, in that order."""
    if cond is None:
        return None
    if isinstance(cond, list | tuple):
        return [cond[int(index)] for index in indices]
    device = cond.device if isinstance(cond, Tensor) else None
    return cond[torch.as_tensor(indices, device=device)]  # a Context is indexed by tensors too


def condition_argument(reward: Callable[..., Any]) -> str | None:
    """Name the argument of a reward that receives the condition.

    It is the one called `cond`, or else a second one without a default called one of CONDITIONS.

    Args:
        reward: a function or module, called as reward(x) or reward(x, <argument>=cond).

    Returns:
        The name, or None for a reward of the sample alone, or one without a signature.

    Raises:
        ValueError: a second argument without a default that is no condition, or a reward that takes
            no sample or more arguments than these.
    """
    name = name_of(reward)
    try:
        signature = inspect.signature(reward.forward if isinstance(reward, nn.Module) else reward)
    except ValueError:  # a built-in without a signature
        return None
    required = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in VARIADIC
    ]
    argument = "cond" if "cond" in signature.parameters else next(iter(required[1:]), None)
    if argument not in (None, *CONDITIONS):
        raise ValueError(
            f"reward '{name}': its argument '{argument}' has no value; "
            "give it a default, or call it cond if it is the condition"
        )
    try:
        signature.bind(None, **({argument: None} if argument else {}))
    except TypeError as error:
        raise ValueError(
            f"reward '{name}': expected arguments (x) or (x, cond), got {signature}; change them"
        ) from error
    return argument


def name_of(function: Callable[..., Any]) -> str:
    """Name a callable for an error: a function by its name, an object by its class."""
    return getattr(function, "__name__", None) or type(function).__name__
