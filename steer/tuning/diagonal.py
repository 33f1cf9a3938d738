"""Tuning by regression of the velocity on renoised samples; the jumps follow on the same samples.

    L = E w |u_{t,t}(x_t) - sg[target]|^2 + off_weight L_off,      x_t = alpha_t z + sigma_t e,

with clean samples z of the base or of the map itself, a reward for each, and fresh noise e. Methods
differ in whose samples they take, in the weight w and in the target. No gradient of the reward is
taken. L_off is an off-diagonal objective of `steer.training` on the same z, whose target network
is the map itself: without it few jumps would keep the law of before while many steps are tuned.
"""

from abc import abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tilt import Tilt
from steer.training.base import Loss, PairObjective, Pairs, Target
from steer.training.semigroup import Semigroup
from steer.training.times import PairLaw, SortedPair, TimeLaw, Uniform
from steer.tuning.objective import TuningObjective

__all__ = ["DiagonalTuning", "Renoised"]


class Renoised(NamedTuple):
    """Clean samples with their tilt, and noisy samples made of them.

    Attributes:
        z: clean samples, (B, *shape).
        tilt: scale * r(z), (B,), float64.
        cond: their conditions.
        x_t, t: the samples noised, (K B, *shape), and their times (K B,).
        path_velocity: I_t', (K B, *shape).
        source: the clean sample that each is made of, (K B,).
    """

    z: Tensor
    tilt: Tensor
    cond: Cond
    x_t: Tensor
    t: Tensor
    path_velocity: Tensor
    source: Tensor


class DiagonalTuning(TuningObjective):
    """Regression of u_{t,t} at renoised samples, and of the jumps on its own velocity.

    Args:
        jumps: of the map that draws the samples, from noise to data.
        noisings: noisy samples made of each clean one.
        times: law of t; uniform by default.
        off_diagonal: what teaches the jumps; Semigroup() by default.
        pairs: law of (s, t) off the diagonal; sorted uniform times by default.
        off_weight: of the off-diagonal loss; 0 tunes the velocity alone.

    Raises:
        ValueError: settings out of range.
    """

    needs_gradient = False

    def __init__(
        self,
        jumps: int = 4,
        noisings: int = 1,
        *,
        times: TimeLaw | None = None,
        off_diagonal: PairObjective | None = None,
        pairs: PairLaw | None = None,
        off_weight: float = 1.0,
    ):
        super().__init__()
        if jumps < 1 or noisings < 1 or off_weight < 0:
            raise ValueError(
                f"{type(self).__name__} needs jumps >= 1, noisings >= 1 and off_weight >= 0;"
                f" got jumps={jumps}, noisings={noisings}, off_weight={off_weight}"
            )
        self.jumps = jumps
        self.noisings = noisings
        self.times = times or Uniform()
        self.off_diagonal = off_diagonal or Semigroup()
        self.pairs = pairs or SortedPair()
        self.off_weight = off_weight

    @abstractmethod
    def draws_from(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        """Chooses the map whose samples are rewarded: the base, or the map itself."""

    @abstractmethod
    def residual(
        self, flow_map: ResidualMap, base: FlowMap, seen: Renoised, cond: Cond
    ) -> tuple[Float[Tensor, "m"], dict[str, Tensor]]:
        """Computes the weighted squared residual of each noisy sample, and terms for the log.

        Args:
            flow_map: the map being tuned.
            base: the map it started from.
            seen: the samples.
            cond: conditions of the noisy samples.
        """

    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        with torch.no_grad():
            z = self.drawn(self.draws_from(flow_map, base), x0, cond)
            seen = self.renoised(flow_map, z, tilt(z, cond, 1.0), cond, generator)
        diagonal, terms = self.residual(flow_map, base, seen, pick(cond, seen.source))
        loss = diagonal.mean()
        terms = {"tilt": seen.tilt.mean(), "diagonal": diagonal.detach().mean(), **terms}
        if self.off_weight > 0:
            off = self.off_residual(flow_map, seen, generator, step).mean()
            loss = loss + self.off_weight * off
            terms["off_diagonal"] = off.detach()
        return Loss(loss, terms)

    def drawn(self, source: FlowMap, x0: Tensor, cond: Cond) -> Float[Tensor, "b *shape"]:
        """Draws clean samples by equal jumps."""
        x = x0
        for s, t in pairwise(torch.linspace(0, 1, self.jumps + 1, dtype=torch.float64).tolist()):
            x = source(x, s, t, cond)
        return x

    def renoised(
        self,
        flow_map: ResidualMap,
        z: Tensor,
        tilt: Float[Tensor, "b"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Renoised:
        """Adds the noise of a random time to every sample, `noisings` times."""
        index = torch.arange(len(z), device=z.device).repeat(self.noisings)
        t = self.times.sample(len(index), generator)
        clean = z[index]
        noise = torch.randn(clean.shape, generator=generator, device=z.device, dtype=z.dtype)
        x_t = flow_map.schedule.interpolate(noise, clean, t)
        velocity = flow_map.schedule.path_velocity(noise, clean, t)
        return Renoised(z, tilt, cond, x_t, t, velocity, index)

    def off_residual(
        self, flow_map: ResidualMap, seen: Renoised, generator: torch.Generator, step: int
    ) -> Float[Tensor, "b"]:
        """Computes the squared off-diagonal residuals at the clean samples, renoised anew."""
        z = seen.z
        s, t = self.pairs.sample(len(z), generator)
        noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        pairs = Pairs(noise, z, s, t, seen.cond, step)
        return self.off_diagonal(flow_map, Target(flow_map, flow_map), pairs, generator)


class LogMeanExp(torch.nn.Module):
    """A running estimate of log E[exp(v)], kept in the buffer `value`.

    A mean over the batch alone would correlate with its own samples and weaken the tilt by a part
    of order 1 / batch.

    Args:
        decay: of the average over steps.
    """

    value: Tensor
    steps: Tensor

    def __init__(self, decay: float = 0.98):
        super().__init__()
        self.decay = decay
        self.register_buffer("value", torch.zeros((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, v: Float[Tensor, "b"]) -> Float[Tensor, ""]:
        """Returns the estimate before this batch (of the first, itself), and adds the batch."""
        batch = torch.logsumexp(v.double(), 0) - torch.log(torch.tensor(float(len(v))))
        before = batch if int(self.steps) == 0 else self.value.clone()
        kept = min(self.decay, int(self.steps) / (int(self.steps) + 1))
        terms = torch.stack((self.value, batch))
        shares = torch.tensor([kept, 1 - kept], dtype=torch.float64, device=v.device)
        self.value.copy_(torch.logsumexp(terms + shares.log(), 0))
        self.steps += 1
        return before


def advantages(tilt: Float[Tensor, "b"], cond: Cond) -> Float[Tensor, "b"]:
    """Subtracts from each sample's tilt the mean over the other samples of its prompt.

    Zero for a prompt with one sample.
    """
    prompt = prompts_of(cond, len(tilt)).to(tilt.device)
    number = prompt.bincount().to(tilt)
    mean = torch.zeros_like(number).index_add(0, prompt, tilt) / number
    n = number[prompt]
    return torch.where(n > 1, (tilt - mean[prompt]) * n / (n - 1).clamp_min(1), 0.0)


def prompts_of(cond: Cond, n: int) -> Int[Tensor, "n"]:
    """Numbers the different conditions of n samples."""
    if cond is None:
        return torch.zeros(n, dtype=torch.long)
    if isinstance(cond, Tensor):
        return torch.unique(cond, dim=0, return_inverse=True)[1]
    numbers = {prompt: k for k, prompt in enumerate(dict.fromkeys(cond))}
    return torch.tensor([numbers[prompt] for prompt in cond])
