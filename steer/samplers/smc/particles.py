"""Weighted particles of several prompts, and what selection does to them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer.resampling import log_mean_exp
from steer.samplers.base import Run
from steer.samplers.smc.incremental_weights import Glance

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """Instead of weighing: every few steps keep the particles whose look-ahead is best, and clone
    them.

    Args:
        every: steps between selections.
        keep: fraction of the particles that survive, at least one.
    """

    every: int = 10
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 < self.keep <= 1:
            raise ValueError(
                f"Search needs every >= 1 and keep in (0, 1]; got every={self.every}, keep={self.keep}"
            )

    def __call__(self, value: Float[Tensor, "p n"]) -> Tensor:
        """Ancestors (P, N): the survivors, best first, over and over."""
        n = value.shape[1]
        survivors = value.argsort(dim=1, descending=True)[:, : max(round(n * self.keep), 1)]
        return survivors.repeat(1, -(-n // survivors.shape[1]))[:, :n]


class Population(NamedTuple):
    """Particles x (B, *shape), what is known of them, their log weights (P, N) since the last
    resampling, log Z before.
    """

    x: Tensor
    glance: Glance
    log_w: Tensor
    log_z: Tensor
    steps: int


def descend(
    run: Run, now: Population, ancestors: Int[Tensor, "p n"], chosen: Bool[Tensor, "p"]
) -> Population:
    """The population after resampling the chosen prompts: every per-particle tensor re-indexed,
    weights moved to log Z.
    """
    log_w, log_z = moved_to_log_z(now.log_w, now.log_z, chosen)
    glance = Glance(*(of_ancestors(run, part, ancestors) for part in now.glance))
    return Population(of_ancestors(run, now.x, ancestors), glance, log_w, log_z, now.steps)


def of_ancestors(
    run: Run, x: Float[Tensor, "b *shape"], ancestors: Int[Tensor, "p n"]
) -> Float[Tensor, "b *shape"]:
    """A tensor of one row per particle, re-indexed by the ancestors within each prompt."""
    first = torch.arange(run.prompts, device=run.device)[:, None] * run.particles
    return x[(ancestors + first).flatten()]


def moved_to_log_z(
    log_w: Float[Tensor, "p n"], log_z: Float[Tensor, "p"], chosen: Bool[Tensor, "p"]
) -> tuple[Tensor, Tensor]:
    """Log weights and log Z after resampling the chosen prompts: equal weights, their mean gone
    into log Z.
    """
    after = torch.where(chosen, log_z + log_mean_exp(log_w), log_z)
    return torch.where(chosen[:, None], torch.zeros_like(log_w), log_w), after


def unevenness(log_w: Float[Tensor, "p n"], gain: Float[Tensor, "p n"]) -> tuple[Tensor, Tensor]:
    """Of the gains of log weights in one step, under the weights before it: standard deviation, and
    log(1 + CV^2) of exp.
    """
    lost = (gain == -torch.inf) | (log_w == -torch.inf)  # particles of weight zero are out of both
    none = lost.all(dim=1, keepdim=True)
    log_p = torch.log_softmax(torch.where(none, 0.0, torch.where(lost, -torch.inf, log_w)), dim=1)
    gain = torch.where(lost, 0.0, gain)
    p = log_p.exp()
    middle = (p * gain).sum(1, keepdim=True)
    length = (p * (gain - middle).square()).sum(1).sqrt()
    centred = log_p + gain - middle
    discrepancy = torch.logsumexp(centred + gain - middle, dim=1) - 2 * torch.logsumexp(
        centred, dim=1
    )
    return length, discrepancy.clamp_min(0)  # of rounding: it is never negative
