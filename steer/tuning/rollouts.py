"""Rollouts: from noise to clean samples, with gradients through a few moves only.

A rollout also measures what a change of the model did to its moves. The energy of a change is
int |v - v_base|^2 dt, summed over dimensions, v the velocity that the rollout moves by: along its
jumps, u_{s,t} for a time t - s each; along small steps, b_t. Along the tuned model's own paths the
latter is the KL between the path measures of tuned and base model under noise of variance 1/2 per
unit of time; it is estimated on renoised samples, which is the same where the velocity is that of
the samples' distribution. For one jump from noise the energy is |X_{0,1} - X^base_{0,1}|^2, the
squared distance that the sample was moved by.

References: Clark et al. 2024, arXiv 2309.17400 (DRaFT-K and -LV); Prabhudesai et al. 2023, arXiv
2310.03739 (AlignProp); Xu et al. 2023, arXiv 2304.05977 (ReFL); Liang et al. 2026, arXiv 2604.15311
(LeapAlign).
"""

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, AtMost, checked
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import expand


class Move(NamedTuple):
    """A jump from x at s to t by the average velocity u.

    Attributes:
        x: where it starts, (B, *shape).
        s, t: its times (B,).
        u: (B, *shape), which carries the gradient.
    """

    x: Tensor
    s: Tensor
    t: Tensor
    u: Tensor


class Rolled(NamedTuple):
    """The result of a rollout.

    Attributes:
        z: clean samples (n, *shape), differentiable in the model's weights.
        moves: the jumps that led there, if by jumps.
        whole: the model's samples (B, *shape) where z is something else: an estimate of them, or
            several of each.
        source: which of the B each z is made of, (n,); None where n = B.
    """

    z: Tensor
    moves: tuple[Move, ...] = ()
    whole: Tensor | None = None
    source: Tensor | None = None

    @property
    def samples(self) -> Float[Tensor, "b *shape"]:
        """The model's own samples, without gradient."""
        return (self.z if self.whole is None else self.whole).detach()

    def conditions(self, cond: Cond) -> Cond:
        """Picks the condition of each z from those of the B."""
        return cond if self.source is None else pick(cond, self.source)


class Rollout(ABC):
    """rollout(flow_map, x0, cond, generator) -> Rolled."""

    @abstractmethod
    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        """Draws clean samples from noise x0."""

    @abstractmethod
    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Computes the energy of the change, with its gradient, for the samples in `indices`."""


class Jumps(Rollout):
    """Look-ahead through the last `last` jumps: x0 -> x_{t1} -> ... -> x_1.

    Each jump is one evaluation. With last = 1, a share `from_noise` of the batch jumps from the
    noise itself; the rest first jumps, without gradient, to a uniform time s, and is rewarded where
    it lands from there. So every X_{s,1} learns, for at most two evaluations a sample. With last =
    k, k - 1 sorted uniform times come between s and 1, and all k jumps learn.

    Args:
        last: number of jumps that carry gradients.
        from_noise: part of the batch that starts at s = 0.

    Raises:
        ValueError: last below 1, or from_noise outside [0, 1].
    """

    def __init__(self, last: int = 1, from_noise: float = 0.5):
        if last < 1 or not 0 <= from_noise <= 1:
            raise ValueError(
                "Jumps needs last >= 1 and from_noise in [0, 1];"
                f" got last={last}, from_noise={from_noise}"
            )
        self.last = last
        self.from_noise = from_noise

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        drawn = torch.rand(self.last, len(x0), generator=generator, device=x0.device)
        times = drawn.sort(dim=0).values
        direct = round(self.from_noise * len(x0))
        times[0, :direct] = 0.0
        x = x0
        moves = []
        if direct < len(x0):
            with torch.no_grad():
                rest = pick(cond, slice(direct, None))
                x = torch.cat((x0[:direct], flow_map(x0[direct:], 0.0, times[0, direct:], rest)))
        for s, t in zip(times, [*times[1:], torch.ones_like(times[0])], strict=True):
            u = flow_map.average_velocity(x, s, t, cond)
            moves.append(Move(x, s, t, u))
            x = x + expand(t - s, x) * u
        return Rolled(x, tuple(moves))

    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Sums (t - s) |u - u_base|^2 over the jumps.

        It costs one evaluation of the base for each, and none of the model.
        """
        return energy_of_moves(rolled, base, indices, cond)


class Steps(Rollout):
    """Small steps along the velocity, whose energy is that of the velocity."""

    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Computes |b_t - b_base|^2 at a uniform time along each renoised sample.

        It costs one evaluation of each map.
        """
        part = pick(cond, indices)
        return drift_energy(flow_map, base, rolled.samples[indices], part, generator)


class EulerSteps(Steps):
    """N Euler steps along the velocity, gradients through the last K: DRaFT-K.

    K = N is DRaFT. With `random`, K is drawn anew for every batch, uniform over 1 ... last: the
    truncation of AlignProp. With `renoised`, each sample also gets the noise of the last step back,
    so many times, and takes that step again with its gradient: DRaFT-LV, whose gradient has less
    variance for one evaluation, one backward pass and one reward more for each.

    Args:
        steps: N.
        last: K.
        random: whether K is random, at most `last`.
        renoised: further last steps of each sample.

    Raises:
        ValueError: unless 1 <= last <= steps.
    """

    @checked
    def __init__(
        self,
        steps: int = 50,
        last: int = 1,
        random: bool = False,
        renoised: Annotated[int, AtLeast(0)] = 0,
    ):
        if not 1 <= last <= steps:
            raise ValueError(
                f"EulerSteps needs 1 <= last <= steps; got last={last} of steps={steps}"
            )
        self.steps = steps
        self.last = last
        self.random = random
        self.renoised = renoised

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        last = self.last
        if self.random:
            last = 1 + int(torch.randint(last, (), generator=generator, device=x0.device))
        x = x0
        for k in range(self.steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= self.steps - last):
                x = x + flow_map.velocity(x, k / self.steps, cond) / self.steps
        if not self.renoised:
            return Rolled(x)
        source = torch.arange(len(x), device=x.device).repeat(self.renoised)
        many = x.detach()[source]
        noise = torch.randn(many.shape, generator=generator, device=x.device, dtype=x.dtype)
        s = 1 - 1 / self.steps
        x_s = flow_map.schedule.interpolate(noise, many, s)
        again = x_s + flow_map.velocity(x_s, s, pick(cond, source)) / self.steps
        first = torch.arange(len(x), device=x.device)
        return Rolled(torch.cat((x, again)), whole=x.detach(), source=torch.cat((first, source)))


class LateStep(Steps):
    """N Euler steps without gradient, and the posterior mean E[x1 | x_t] at one of the last: ReFL.

    The step is uniform over the last `late`, for each sample; there the posterior mean is estimated
    once more, with its gradient. Cost: N + 1 forwards, one backward.

    Args:
        steps: N.
        late: how many of the last steps it may be.

    Raises:
        ValueError: unless 1 <= late <= steps.
    """

    def __init__(self, steps: int = 40, late: int = 10):
        if not 1 <= late <= steps:
            raise ValueError(f"LateStep needs 1 <= late <= steps; got late={late} of steps={steps}")
        self.steps = steps
        self.late = late

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        n = len(x0)
        chosen = torch.randint(self.late, (n,), generator=generator, device=x0.device)
        chosen = chosen + self.steps - self.late
        x, x_t = x0, x0.clone()
        with torch.no_grad():
            for k in range(self.steps):
                x_t[chosen == k] = x[chosen == k]
                x = x + flow_map.velocity(x, k / self.steps, cond) / self.steps
        z = flow_map.denoise(x_t, chosen.double() / self.steps, cond)
        return Rolled(z, whole=x)


class TwoLeaps(Rollout):
    """N Euler steps without gradient; gradients through two jumps x_s -> x_t -> x_1 instead.

    s < t are two of the N times, at random for each sample. Both jumps start where the steps have
    come to and end there too: they lend their derivatives alone,

        x_t' = x_t + [X_{s,t}(x_s) - sg X_{s,t}(x_s)],
        z = x_1 + [X_{t,1}(x_t') - sg X_{t,1}(x_t')],

    so that the reward is that of many steps and its gradient reaches any time for two backward
    passes. It is as good as the map's jumps follow its velocity. LeapAlign has the velocity at s
    and t for the average velocity of the jumps, and weighs samples by how near the jumps come; its
    discount is `nested`.

    Args:
        steps: N.
        nested: how much the second jump's network passes on to the first one's, 1 for the
            derivative itself; 0 leaves the part that goes straight on.

    Raises:
        ValueError: fewer than 2 steps.
    """

    @checked
    def __init__(
        self,
        steps: Annotated[int, AtLeast(2)] = 25,
        nested: Annotated[float, AtLeast(0), AtMost(1)] = 1.0,
    ):
        self.steps = steps
        self.nested = nested

    def __call__(
        self,
        flow_map: ResidualMap,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Rolled:
        n = len(x0)
        drawn = torch.rand(self.steps, n, generator=generator, device=x0.device)
        first, second = drawn.topk(2, dim=0).indices.sort(dim=0).values
        x, x_s, x_t = x0, x0.clone(), x0.clone()
        with torch.no_grad():
            for k in range(self.steps):
                x_s[first == k] = x[first == k]
                x_t[second == k] = x[second == k]
                x = x + flow_map.velocity(x, k / self.steps, cond) / self.steps
        s, t = (k.double() / self.steps for k in (first, second))
        one = torch.ones_like(t)
        u_first = flow_map.average_velocity(x_s, s, t, cond)
        lent = expand(t - s, x) * (u_first - u_first.detach())
        inside = x_t + self.nested * lent
        u_second = flow_map.average_velocity(inside, t, one, cond)
        z = x + lent + expand(1 - t, x) * (u_second - u_second.detach())
        return Rolled(z, (Move(x_s, s, t, u_first), Move(inside, t, one, u_second)))

    def energy(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        rolled: Rolled,
        indices: slice,
        cond: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, "n"]:
        """Sums (t - s) |u - u_base|^2 over the two jumps, for one evaluation of the base each."""
        return energy_of_moves(rolled, base, indices, cond)


def energy_of_moves(
    rolled: Rolled, base: FlowMap, indices: slice, cond: Cond
) -> Float[Tensor, "n"]:
    """Sums the energies of the jumps of a rollout."""
    return torch.stack([jump_energy(move, base, indices, cond) for move in rolled.moves]).sum(0)


def jump_energy(move: Move, base: FlowMap, indices: slice, cond: Cond) -> Float[Tensor, "n"]:
    """Computes (t - s) |u - u_base|^2, summed over dimensions.

    Its gradient passes through u and through x, where earlier jumps put it.
    """
    x, s, t, u = (part[indices] for part in move)
    with torch.set_grad_enabled(x.requires_grad):
        reference = base.average_velocity(x, s, t, pick(cond, indices))
    return (t - s) * squared_norm(u - reference)


def drift_energy(
    flow_map: FlowMap,
    base: FlowMap,
    x1: Float[Tensor, "b *shape"],
    cond: Cond,
    generator: torch.Generator,
) -> Float[Tensor, "b"]:
    """Computes |b_t(x_t) - b_base(x_t)|^2 at one uniform time per sample, summed over dimensions.

    It is unbiased for its integral over t.
    """
    t = torch.rand(len(x1), generator=generator, device=x1.device)
    noise = torch.randn(x1.shape, generator=generator, device=x1.device, dtype=x1.dtype)
    x_t = flow_map.schedule.interpolate(noise, x1, t)
    with torch.no_grad():
        reference = base.velocity(x_t, t, cond)
    return squared_norm(flow_map.velocity(x_t, t, cond) - reference)


def squared_norm(change: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Sums the squares of each sample, in float32 or better."""
    return change.to(torch.promote_types(change.dtype, torch.float32)).square().flatten(1).sum(1)
