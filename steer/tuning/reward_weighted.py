"""Reward-weighted regression: flow matching on samples of the base, weighted by the tilt.

    L = E W |u_{t,t}(x_t) - I_t'|^2,      W = exp(scale r(z)) / Z,      z ~ p_1.

The minimiser is the velocity of the tilted distribution p_1 exp(scale r) / Z, since E[W I_t' | x_t]
/ E[W | x_t] is the mean of I_t' under it. The variance of W limits the scale: the samples that
count are a fraction ESS / n of those drawn.

With a pool, the samples of each step are redrawn from those that are kept, in proportion to W
within their prompt, and count alike: a reward that few of the base's samples have then costs no
updates on the others.

In rounds, the samples are those of the map as it was when the round began, so that k rounds tilt by
k times the scale: a maximiser, without a reference to return to.

References: Peters & Schaal 2007, ICML (reward-weighted regression); Fan et al. 2025, arXiv
2502.06061 (flow matching, in rounds).
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from steer.annotations import AtLeast, Count
from steer.conditions import pick
from steer.flow_map import FlowMap, ResidualMap
from steer.resampling import effective_sample_size
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import Loss, mean_square
from steer.tuning.diagonal import Clean, DiagonalTuning, LogMeanExp, Renoised, members
from steer.tuning.objective import Follower, TuningClaim

__all__ = ["RewardWeighted"]


class RewardWeighted(DiagonalTuning):
    """Flow matching weighted by exp(scale r); exact for the tilted distribution of the base.

    Takes any reward.

    Args:
        sampler, noisings, more: as in DiagonalTuning; it draws from the base.
        round_steps: optimizer steps after which the map's own samples replace the base's, and so
            on; None stays with the base. In rounds it is a maximiser.
        redrawn: samples of each step, redrawn from a collection by weight, which `reuse` steps
            share; the weights are then normalised within each prompt's samples in the collection, a
            bias of the order of one in its effective samples. None trains on the whole collection,
            weighted.
        per_prompt: samples of each prompt to redraw from, at least, where `redrawn` is given; a
            batch without conditions is one group.

    Raises:
        ValueError: rounds of data.
    """

    any_base = True

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 1,
        *,
        round_steps: Count | None = None,
        redrawn: Count | None = None,
        per_prompt: Annotated[int, AtLeast(2)] = 8,
        **more: Any,
    ):
        super().__init__(sampler, noisings, **more)
        if round_steps is not None and self.data is not None:
            raise ValueError(
                "in rounds the samples are the map's own, not data; leave out round_steps or data"
            )
        self.redrawn = redrawn
        if redrawn is not None:
            self.per_prompt = per_prompt
        self.round_steps = round_steps
        self.log_normaliser = LogMeanExp()
        self.old: Follower | None = None

    @property
    def claim(self) -> TuningClaim:  # type: ignore[override]
        return "exact" if self.round_steps is None else "maximiser"

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        if self.round_steps is not None:
            self.old = Follower(flow_map)

    def begin(self, flow_map: ResidualMap, step: int) -> None:
        if self.old is not None and self.round_steps and step % self.round_steps == 0:
            self.old.follow(flow_map, 1.0)

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return base if self.old is None else self.old.map

    def loss(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Clean,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        if self.redrawn is None:
            return super().loss(flow_map, base, tilt, kept, generator, step)
        some = redrawn(kept, self.redrawn, generator)
        loss = super().loss(flow_map, base, tilt, some, generator, step)
        return loss._replace(terms={**loss.terms, "tilt": kept.tilt.mean()})

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        u = flow_map.velocity(seen.x_t, seen.t, seen.cond)
        squared = mean_square(u - seen.path_velocity)
        if self.redrawn is not None:
            return squared, {}
        value = seen.clean.tilt
        log_weight = value - self.log_normaliser(value, seen.clean.cond)
        ess = effective_sample_size(log_weight[None])[0] / len(log_weight)
        return log_weight.exp()[seen.source].to(u.dtype) * squared, {"ess": ess}


def redrawn(clean: Clean, n: int, generator: torch.Generator) -> Clean:
    """Draws n samples in proportion to exp(tilt), normalised within each prompt."""
    shares = torch.zeros_like(clean.tilt)
    for mine in members(clean.cond, len(shares), shares.device).values():
        if (clean.tilt[mine] > -torch.inf).any():
            shares[mine] = torch.softmax(clean.tilt[mine], 0) * mine.sum()
    chosen = torch.multinomial(shares, n, replacement=True, generator=generator)
    return Clean(clean.z[chosen], clean.tilt[chosen], pick(clean.cond, chosen))
