"""Flow-Map GRPO: policy gradients through few stochastic jumps of a flow map; takes any reward.

A deterministic map becomes a policy by anchored steps from s to t, with an anchor a in (t, 1]:

    x_t | x_s ~ N(mu, sd^2 I),   mu = alpha_t / alpha_a X_{s,a}(x_s),
    sd^2 = sigma_t^2 - (alpha_t / alpha_a)^2 sigma_a^2.

Jump to a and return by noise: if x_s has the law p_s of an exact map, x_t has p_t, for every
anchor. At a = 1 it is a jump to the data and back; towards a = t the noise vanishes. The map as it
is when a collection begins, theta_old, takes K such steps on the times k / (K + 1) and one
deterministic jump to 1, which is rewarded. With A the advantage over the samples of the same prompt

    L = E sum_k -min(rho_k A, clip(rho_k, 1 - c, 1 + c) A) + kl |mu_k - mu_base|^2 / (2 sd_k^2),
    log rho_k = (|x_t - mu_old|^2 - |x_t - mu|^2) / (2 sd_k^2).

At rho = 1, as in the first pass, its gradient is the policy gradient, that of -E[A] over the K
steps. It maximises. The second term is the KL to the base of the K steps, in nats; without a
standardised advantage the optimum balances it with the reward, under this policy, not in p_1.

Norms are sums over dimensions: rho is then the ratio of the two densities, and kl counts nats.
Published settings average log rho over dimensions, which makes neither; their clip of 1e-4 on the
average is 1e-4 times the number of dimensions here.

The last jump gets no policy gradient, and only the rolled pairs (s, a) do. What keeps the map a
flow map is L_map, a training objective on the samples z, as in `Direct`: the velocity by flow
matching on renoised z, the jumps by following the velocity. The jumps alone would be drawn back to
the velocity of before.

Reference: Flow-Map GRPO, 2026, arXiv 2607.00535 (the text was not at hand; its two-time form
linearises the step at an anchor next to t).
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, AtMost, Count, NotNegative, Positive
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import Schedule, batch_time, expand
from steer.tilt import Tilt
from steer.training import FlowMatching, Joint, Loss, Objective, Semigroup
from steer.tuning.diagonal import advantages
from steer.tuning.objective import RolloutObjective, TuningClaim, in_parts
from steer.tuning.policy import standardised, surrogate

__all__ = ["FlowMapGrpo"]


class Rolled(NamedTuple):
    """Rollouts of B samples by K stochastic steps, the steps one after another.

    Attributes:
        x_s: where each step starts, (K B, *shape).
        noise: what was drawn, (x_t - mu_old) / sd, (K B, *shape).
        mean: mu_old, (K B, *shape).
        z: clean samples (B, *shape).
        tilt: scale * r(z), (B,).
        advantage: (B,).
        cond: conditions of the samples.
    """

    x_s: Tensor
    noise: Tensor
    mean: Tensor
    z: Tensor
    tilt: Tensor
    advantage: Tensor
    cond: Cond


class Steps(NamedTuple):
    """Anchored steps, one for each sample, from s.

    Attributes:
        s, anchor: times (n,).
        scaled: alpha_t / alpha_a (n,).
        sd: of the noise (n,).
    """

    s: Tensor
    anchor: Tensor
    scaled: Tensor
    sd: Tensor

    def of(self, part: slice) -> "Steps":
        """Takes some of them."""
        return Steps(*(each[part] for each in self))

    def mean(self, flow_map: FlowMap, x_s: Float[Tensor, "n *shape"], cond: Cond) -> Tensor:
        """Computes mu, (n, *shape)."""
        return expand(self.scaled, x_s) * flow_map(x_s, self.s, self.anchor, cond)

    def in_sd(self, change: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Divides a change of mu by the noise, in float32 or better."""
        wide = change.to(torch.promote_types(change.dtype, torch.float32))
        return wide / expand(self.sd, wide)


class FlowMapGrpo(RolloutObjective[Rolled]):
    """Clipped policy gradients on anchored steps of the flow map; a maximiser for any reward.

    A collection costs steps + 1 evaluations and a reward a sample; each pass on it `steps` forward
    and backward passes, and with a KL `steps` evaluations of the base.

    Args:
        steps: K, the stochastic steps.
        anchor: the place of the anchor between t, where a step ends, and 1: a = t + anchor (1 - t).
            At 1 each step jumps to the data.
        per_prompt: samples of each prompt that are compared, at least; a batch without conditions
            is one group.
        standardise: divide advantages by their standard deviation. The reward's units and the
            tilt's scale are then forgotten. Without, the advantage is the reward less the mean of
            the others, which leaves the policy gradient unbiased.
        advantage_clip: the largest standardised advantage.
        ratio_clip: c.
        kl: weight of the KL to the base.
        consistency: weight of `objective`; 0 leaves it out.
        objective: L_map, on the batch's own samples; by default Joint(FlowMatching(), Semigroup()).
        reuse: passes on each collection.
        at_once: steps whose activations are held at a time; None holds all K B of a batch.

    Raises:
        ValueError: settings out of range; an anchor of 0, whose steps are deterministic.
    """

    claim: TuningClaim = "maximiser"
    record = Rolled

    def __init__(
        self,
        steps: Count = 4,
        anchor: Annotated[float, AtLeast(0), AtMost(1)] = 1.0,
        per_prompt: Annotated[int, AtLeast(2)] = 8,
        *,
        standardise: bool = True,
        advantage_clip: Positive = 5.0,
        ratio_clip: Positive = 0.2,
        kl: NotNegative = 0.01,
        consistency: NotNegative = 1.0,
        objective: Objective | None = None,
        reuse: Count = 1,
        at_once: Count | None = None,
    ):
        super().__init__(reuse)
        if anchor == 0:
            raise ValueError(
                "anchor=0 makes every step deterministic: a policy without noise has no policy"
                " gradient; take an anchor above 0, up to 1"
            )
        self.steps = steps
        self.anchor = anchor
        self.per_prompt = per_prompt
        self.standardise = standardise
        self.advantage_clip = advantage_clip
        self.ratio_clip = ratio_clip
        self.kl = kl
        self.consistency = consistency
        self.objective = objective or Joint(FlowMatching(), Semigroup(), diag_fraction=0.5)
        self.at_once = at_once

    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        n = len(x0)
        steps = self.grid(flow_map.schedule, x0)
        x, taken = x0, []
        for k in range(self.steps):
            now = steps.of(slice(k * n, (k + 1) * n))
            mean = now.mean(flow_map, x, cond)
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            taken.append((x, noise, mean))
            x = mean + expand(now.sd, x) * noise
        z = flow_map(x, self.steps / (self.steps + 1), 1.0, cond)
        value = tilt(z, cond, 1.0)
        if self.standardise:
            advantage = standardised(value, cond, self.advantage_clip)
        else:
            advantage = advantages(value, cond)
        x_s, noise, mean = (torch.cat(each) for each in zip(*taken, strict=True))
        return Rolled(x_s, noise, mean, z, value, advantage, cond)

    def loss(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Rolled,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        steps = self.grid(flow_map.schedule, kept.z)
        mean = self.means(flow_map, steps, kept)
        change = steps.in_sd(mean - kept.mean)
        log_ratio = (change * kept.noise.to(change) - change.square() / 2).flatten(1).sum(1)
        advantage = kept.advantage.repeat(self.steps)
        policy = self.of_sample(surrogate(log_ratio, advantage, self.ratio_clip))
        outside = (log_ratio.detach().exp() - 1).abs() > self.ratio_clip
        terms = {"tilt": kept.tilt.mean(), "clipped": outside.double().mean()}
        total = policy
        if self.kl > 0:
            with torch.no_grad():
                reference = self.means(base, steps, kept)
            kl = self.of_sample(steps.in_sd(mean - reference).square().flatten(1).sum(1) / 2)
            total = total + self.kl * kl
            terms["kl"] = kl.detach()
        if self.consistency > 0:
            z = kept.z
            fresh = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
            map_loss = self.objective(flow_map, fresh, z, kept.cond, generator, step)
            total = total + self.consistency * map_loss.total
            terms["consistency"] = map_loss.total.detach()
        return Loss(total, {**terms, "policy": policy.detach()})

    def grid(self, schedule: Schedule, x0: Float[Tensor, "b *shape"]) -> Steps:
        """Makes the steps of B samples, (K B,)."""
        k = torch.arange(self.steps, device=x0.device).repeat_interleave(len(x0)).double()
        s, t = k / (self.steps + 1), (k + 1) / (self.steps + 1)
        anchor = t + self.anchor * (1 - t)
        made = Steps(s, anchor, *anchored(schedule, t, anchor))
        return Steps(*(each.to(batch_time(0.0, x0)) for each in made))

    def means(self, flow_map: FlowMap, steps: Steps, kept: Rolled) -> Float[Tensor, "kb *shape"]:
        """Computes mu of every step by a map."""
        sample = torch.arange(len(kept.z), device=kept.z.device).repeat(self.steps)

        def part(taken: slice) -> Tensor:
            return steps.of(taken).mean(flow_map, kept.x_s[taken], pick(kept.cond, sample[taken]))

        return in_parts(part, len(sample), self.at_once)

    def of_sample(self, of_steps: Float[Tensor, "kb"]) -> Float[Tensor, ""]:
        """Sums over the steps and averages over the samples."""
        return of_steps.mean() * self.steps


def anchored(
    schedule: Schedule, t: Float[Tensor, "n"], anchor: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Computes alpha_t / alpha_a and sd of anchored steps to t."""
    alpha_t, sigma_t, _, _ = schedule(t)
    alpha_a, sigma_a, _, _ = schedule(anchor)
    scaled = alpha_t / alpha_a
    return scaled, (sigma_t**2 - (scaled * sigma_a) ** 2).sqrt()
