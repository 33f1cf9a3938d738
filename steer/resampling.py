"""Resampling schemes: log weights (P, N) -> ancestor indices (P, N), for each of P populations.

All are unbiased: particle i has N w_i children on average, w the normalised weights. Systematic and
stratified resampling have the least variance.

Reference: Douc, Cappe & Moulines 2005, arXiv cs/0507025.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.randomness import PromptKeys, prompt_generators

Scheme = Callable[[Float[Tensor, "p n"], torch.Generator | None], Int[Tensor, "p n"]]


def systematic(
    log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None
) -> Int[Tensor, "p n"]:
    """Resample at regular places with one uniform shift: N w_i children, rounded down or up."""
    p, n = log_w.shape
    return _invert(_normalised(log_w), (_uniform((p, 1), log_w, generator) + _teeth(n, log_w)) / n)


def stratified(
    log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None
) -> Int[Tensor, "p n"]:
    """Resample with one uniform in each of N equal strata."""
    p, n = log_w.shape
    return _invert(_normalised(log_w), (_uniform((p, n), log_w, generator) + _teeth(n, log_w)) / n)


def multinomial(
    log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None
) -> Int[Tensor, "p n"]:
    """Resample by N independent draws."""
    return _invert(_normalised(log_w), _uniform(log_w.shape, log_w, generator).sort(dim=1).values)


def residual(
    log_w: Float[Tensor, "p n"], generator: torch.Generator | None = None
) -> Int[Tensor, "p n"]:
    """Resample with floor(N w_i) certain children and independent draws for the rest."""
    p, n = log_w.shape
    expected = n * _normalised(log_w)
    certain = (expected + 1e-9).floor()  # a weight of exactly k/n must not lose a child to rounding
    places = torch.arange(n, device=log_w.device).expand(p, n).contiguous()
    # n where no certain child is left
    kept = torch.searchsorted(certain.long().cumsum(dim=1), places, right=True)
    drawn = _invert((expected - certain).clamp_min(0), _uniform((p, n), log_w, generator))
    return torch.where(kept < n, kept, drawn)


def unweighted(
    log_w: Float[Tensor, "p n"],
    m: int,
    generator: torch.Generator | None = None,
    prompt_keys: PromptKeys = None,
) -> Int[Tensor, "p m"]:
    """Draw m unweighted particles of each population, whatever the order of its particles.

    Each of the m places holds particle i with probability w_i, and particle i occurs m w_i times,
    rounded down or up. Where all weights are equal and m <= N, the m are a random subset without
    replacement. The method is systematic sampling in random order (Goodman & Kish 1950), permuted
    once more. All draws are made on the CPU, from a generator keyed by the population.

    Args:
        log_w: log weights, not normalised.
        m: how many to draw of each population.
        generator: source of one integer, from which all generators are seeded; the default
            generator if None.
        prompt_keys: integers that key the populations; 0 .. P - 1 if None.

    Raises:
        ValueError: m below 1, keys that do not match the populations, or a population without a
            finite weight.
    """
    if m < 1:
        raise ValueError(f"resampled keeps at least 1 sample of each prompt; got {m}")
    generators = prompt_generators(len(log_w), prompt_keys, generator)
    w = _normalised(log_w).cpu()
    order = torch.stack([torch.randperm(w.shape[1], generator=g) for g in generators])
    shift = torch.cat([_uniform((1, 1), w, g) for g in generators])
    places = torch.stack([torch.randperm(m, generator=g) for g in generators])
    kept = order.gather(1, _invert(w.gather(1, order), (shift + _teeth(m, w)) / m))
    return kept.gather(1, places).to(log_w.device)


def effective_sample_size(log_w: Float[Tensor, "p n"]) -> Float[Tensor, "p"]:
    """Compute (sum w)^2 / sum w^2 of each population, in [1, N]; 0 where all weights are zero."""
    none = (log_w == -torch.inf).all(dim=1, keepdim=True)
    ess = 1 / _normalised(torch.where(none, 0.0, log_w)).square().sum(dim=1)
    return torch.where(none[:, 0], 0.0, ess)


def weighted_mean(log_w: Float[Tensor, "p n"], values: Float[Tensor, "p n"]) -> Float[Tensor, "p"]:
    """Compute sum w v / sum w of each population; NaN where all weights are zero.

    Values of weight zero do not count, even if they are infinite.
    """
    w = torch.softmax(log_w.double(), dim=1)
    return torch.where(w == 0, 0.0, w * values).sum(dim=1)


def log_mean_exp(log_w: Float[Tensor, "p n"]) -> Float[Tensor, "p"]:
    """Compute the log of the mean weight of each population, in float64.

    It is exactly 0 for weights of one, and -inf where all are zero.
    """
    log_w = log_w.double()
    return torch.logsumexp(log_w, dim=1) - torch.logsumexp(torch.zeros_like(log_w), dim=1)


def _normalised(log_w: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
    """Normalise the weights in float64. Raises ValueError, with the index, where there are none."""
    w = torch.softmax(log_w.double(), dim=1)
    if not w.isfinite().all():
        index = int((~w.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"row {index} of the log weights has NaN, +inf or nothing above -inf: "
            "no particle is left to copy"
        )
    return w


def _invert(w: Float[Tensor, "p n"], u: Float[Tensor, "p m"]) -> Int[Tensor, "p m"]:
    """Find where the uniforms u fall in the cumulative weights, never on a weight of zero."""
    cumulative = w.cumsum(dim=1)
    below_one = u.clamp_max(1 - 2.0**-53)  # (N - 1 + u) / N may have rounded up to 1
    return torch.searchsorted(cumulative / cumulative[:, -1:], below_one, right=True)


def _uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=torch.float64)


def _teeth(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device, dtype=torch.float64)
