"""Evaluation of a network in batches of bounded size, without gradients."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import pick


def in_batches(
    network: Callable[..., Tensor],
    x: Float[Tensor, "b *shape"],
    max_batch: int,
    cond: Any = None,
    constrained: bool = False,
) -> Float[Tensor, "b *out"]:
    """Compute network(x), or network(x, cond) where there is a condition, in float64.

    Args:
        network: (B, *shape) -> (B, *out).
        x: samples.
        max_batch: the largest batch given to the network.
        cond: None, or one entry per sample.
        constrained: whether -inf is allowed, as by rewards with hard constraints.

    Raises:
        ValueError: an output that is not (B, *out) or not finite; names the first bad sample.
    """
    answers = []
    for start in range(0, len(x), max_batch):
        batch = slice(start, start + max_batch)
        with torch.no_grad():
            answer = network(x[batch]) if cond is None else network(x[batch], pick(cond, batch))
        answers.append(_checked(answer, len(x[batch]), start, constrained))
    return torch.cat(answers).double()


def _checked(answer: Tensor, samples: int, start: int, constrained: bool) -> Tensor:
    """Return the output of a batch that begins at sample `start`. Raises ValueError as above."""
    if answer.shape[:1] != (samples,):
        raise ValueError(
            f"expected one row for each of {samples} samples, got shape {tuple(answer.shape)}; "
            "do not reduce over the batch"
        )
    fine = torch.isfinite(answer)
    if constrained:
        fine = fine | (answer == -torch.inf)
    bad = ~fine.reshape(samples, -1).all(1)
    if bad.any():
        sample = start + int(bad.nonzero()[0])
        raise ValueError(f"expected finite outputs, got one that is not at sample {sample}")
    return answer
