"""Diffusion-DPO in flow form: a classifier of pairs, without a reward's values.

    L = -E log sigmoid(-beta (D_w - D_l)),    D = |u_{t,t}(x_t) - I_t'|^2 - |b_base(x_t) - I_t'|^2,

w the preferred and l the other sample of a pair of the same prompt, at one t for both; squares are
summed over dimensions. -D stands for log p / p_base, for which the loss is that of direct
preference optimisation, with p_base exp(scale r) as its minimum where preferences are drawn by
Bradley-Terry from scale r. It is not that ratio, and neither is the result that tilt: the velocity
moves the right way, late times too little.

Both members have noise of their own. With the same noise, as in much code, D_w - D_l is a function
of the pair, and the best velocity is wrong: on N(0, 1) with r = x it changes by (t^2 + (1 - t)^2) /
(2 beta (1 - t)), which grows without bound towards t = 1, where the tilt's change vanishes.

Where errors are averaged over dimensions, as published, beta is larger by their number.

References: Wallace et al. 2023, arXiv 2311.12908 (Diffusion-DPO); Rafailov et al. 2023, arXiv
2305.18290 (direct preference optimisation).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from steer.annotations import Count, Positive
from steer.conditions import Cond, for_particles, prompts_of
from steer.data.stream import Stream
from steer.flow_map import FlowMap, ResidualMap
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import Loss
from steer.training.times import TimeLaw, Uniform
from steer.tuning.diagonal import Clean, DiagonalTuning, Renoised, from_data
from steer.tuning.objective import TuningClaim
from steer.tuning.rollouts import squared_norm

__all__ = ["Dpo"]


class Dpo(DiagonalTuning):
    """Direct preference optimisation of the velocity, on pairs of the base's samples or of data.

    Takes any reward, and from data none.

    Args:
        sampler, noisings, more: as in DiagonalTuning; it draws from the base.
        beta: how far a preference may move the velocity: less, the larger it is.
        preference: "drawn", by Bradley-Terry: a sample is preferred with probability sigmoid of the
            difference of scale * r; or "better", the one of higher reward, either at a tie.
        data: pairs to use in place of these, (x1, cond) with x1 (P, 2, *shape), the preferred one
            first, and a condition for each pair.

    Raises:
        ValueError: settings out of range.
    """

    claim: TuningClaim = "near"
    per_prompt = 2

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 1,
        *,
        beta: Positive = 1.0,
        preference: Literal["drawn", "better"] = "drawn",
        times: TimeLaw | None = None,
        data: Stream | None = None,
        **more: Any,
    ):
        super().__init__(sampler, noisings, times=InPairs(times or Uniform()), data=data, **more)
        self.beta = beta
        self.preference = preference

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return base

    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Clean:
        """Collects pairs, the preferred one and the other one by turns."""
        if self.data is not None:
            pairs, cond = from_data(self.data, x0, generator)
            z = pairs.flatten(0, 1)
            return Clean(z, z.new_zeros(len(z), dtype=torch.float64), for_particles(cond, 2))
        clean = super().collect(flow_map, base, tilt, x0, cond, generator)
        check_pairs(prompts_of(cond, len(x0)))
        first, second = clean.tilt.view(-1, 2).unbind(1)
        drawn = self.preference == "drawn"
        even = torch.full_like(first, 0.5)
        likely = torch.sigmoid(first - second) if drawn else torch.heaviside(first - second, even)
        coin = torch.rand(len(first), generator=generator, device=first.device, dtype=first.dtype)
        swapped = (coin >= likely).long()
        order = torch.stack((swapped, 1 - swapped), 1)
        order = (order + 2 * torch.arange(len(order), device=order.device)[:, None]).flatten()
        return Clean(clean.z[order], clean.tilt[order], clean.cond)

    def loss(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Clean,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        loss = super().loss(flow_map, base, tilt, kept, generator, step)
        if self.data is not None:  # no reward was asked
            del loss.terms["tilt"]
        return loss

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of each pair."""
        u = flow_map.velocity(seen.x_t, seen.t, seen.cond)
        with torch.no_grad():
            reference = base.velocity(seen.x_t, seen.t, seen.cond)
        worse = squared_norm(u - seen.path_velocity) - squared_norm(reference - seen.path_velocity)
        preferred, other = worse.view(-1, 2).unbind(1)
        margin = -self.beta * (preferred - other)
        return -logsigmoid(margin), {"margin": margin.detach().mean()}


class InPairs(TimeLaw):
    """Another law's times, each for two samples side by side.

    Args:
        law: of the times.
    """

    def __init__(self, law: TimeLaw):
        self.law = law

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        return self.law.sample(n // 2, generator).repeat_interleave(2)


def check_pairs(prompts: Int[Tensor, "n"]) -> None:
    """Raises ValueError unless samples side by side are pairs of one prompt."""
    if len(prompts) % 2 or not torch.equal(prompts[0::2], prompts[1::2]):
        raise ValueError(
            "Dpo compares two samples of a prompt, side by side: give an even per_prompt, and a"
            f" batch that it divides; got {len(prompts)} samples"
        )
