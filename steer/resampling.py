"""Resampling schemes: (log_w (P, N), generator) -> ancestors (P, N), each row on its own.

All are unbiased: particle i has N w_i children on average, w the normalised weights. They differ in variance, systematic
and stratified having the least. Reference: Douc, Cappe & Moulines 2005, arXiv cs/0507025.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Scheme = Callable[[Float[Tensor, "p n"], torch.Generator | None], Int[Tensor, "p n"]]


def systematic(log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None) -> Int[Tensor, "p n"]:
    """One uniform shift per row of a regular comb: N w_i rounded down or up."""
    p, n = log_w.shape
    return _invert(log_w, (_uniform((p, 1), log_w, generator) + _teeth(n, log_w)) / n)


def stratified(log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None) -> Int[Tensor, "p n"]:
    """One uniform in each of N equal strata."""
    p, n = log_w.shape
    return _invert(log_w, (_uniform((p, n), log_w, generator) + _teeth(n, log_w)) / n)


def multinomial(log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None) -> Int[Tensor, "p n"]:
    """N independent draws."""
    return _invert(log_w, _uniform(log_w.shape, log_w, generator).sort(dim=1).values)


def residual(log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None) -> Int[Tensor, "p n"]:
    """floor(N w_i) children for certain, the remaining places by independent draws from what is left over."""
    n = log_w.shape[1]
    expected = n * torch.softmax(log_w.double(), dim=1)
    certain = (expected + 1e-9).floor()  # a weight of exactly k/n must not lose a child to rounding
    rows = []
    for sure, rest in zip(certain.long(), (expected - certain).clamp_min(0), strict=True):
        kept = torch.repeat_interleave(torch.arange(n, device=log_w.device), sure)
        left = n - len(kept)
        drawn = torch.multinomial(rest, left, replacement=True, generator=generator) if left else kept[:0]
        rows.append(torch.cat((kept, drawn)))
    return torch.stack(rows)


def effective_sample_size(log_w: Float[Tensor, "p n"]) -> Float[Tensor, "p"]:
    """(sum w)^2 / sum w^2 of each row, between 1 and N."""
    return torch.exp(2 * torch.logsumexp(log_w, dim=1) - torch.logsumexp(2 * log_w, dim=1))


def _invert(log_w: Tensor, u: Float[Tensor, "p n"]) -> Int[Tensor, "p n"]:
    """Where sorted uniforms u fall in the cumulative weights."""
    cumulative = torch.softmax(log_w.double(), dim=1).cumsum(dim=1)
    return torch.searchsorted(cumulative / cumulative[:, -1:], u, right=True).clamp_max(log_w.shape[1] - 1)


def _uniform(shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=torch.float64)


def _teeth(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device, dtype=torch.float64)
