"""A network over many samples in batches of bounded size, without gradients, so that memory does
not grow with them.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def in_batches(
    network: Callable[..., Tensor],
    x: Float[Tensor, "b *shape"],
    max_batch: int,
    cond: Any = None,
    constrained: bool = False,
) -> Float[Tensor, "b *out"]:
    """network(x), or network(x, cond) where a condition is given (one entry per sample), in
    float64.

    Raises:
        ValueError: if the network does not answer with one finite row per sample (or, with
            `constrained`, one of -inf); names the first bad sample.
    """
    answers = []
    for start in range(0, len(x), max_batch):
        batch = slice(start, start + max_batch)
        with torch.no_grad():
            answer = network(x[batch]) if cond is None else network(x[batch], cond[batch])
        answers.append(_checked(answer, len(x[batch]), start, constrained))
    return torch.cat(answers).double()


def _checked(answer: Tensor, rows: int, start: int, constrained: bool) -> Tensor:
    if answer.shape[:1] != (rows,):
        raise ValueError(
            f"expected one row for each of {rows} samples, got shape {tuple(answer.shape)}; reduce no batch"
        )
    fine = torch.isfinite(answer)
    if constrained:
        fine = fine | (answer == -torch.inf)
    bad = ~fine.reshape(rows, -1).all(1)
    if bad.any():
        raise ValueError(
            f"expected finite answers, got one that is not at sample {start + int(bad.nonzero()[0])}"
        )
    return answer
