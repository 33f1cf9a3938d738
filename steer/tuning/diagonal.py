"""Tuning by regression of the velocity on renoised samples; the jumps follow on the same samples.

    L = E w |u_{t,t}(x_t) - sg[target]|^2 + off_weight L_off,      x_t = alpha_t z + sigma_t e,

with clean samples z and fresh noise e. Methods differ in whose samples they take, in the weight w
and in the target. L_off is an off-diagonal objective of `steer.training` on the same z, whose
target network is the map itself: without it few jumps would keep the law of before while many steps
are tuned.
"""

from abc import abstractmethod
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.annotations import Count, NotNegative
from steer.conditions import names_of, pick, prompts_of, to
from steer.data.stream import Stream, keyed_generator
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import Schedule
from steer.samplers import Sampler
from steer.samplers.jump import Jump
from steer.tilt import Tilt
from steer.training.base import Loss, PairObjective, Pairs, Target
from steer.training.semigroup import Semigroup
from steer.training.times import PairLaw, SortedPair, TimeLaw, Uniform
from steer.tuning.objective import RolloutObjective

__all__ = ["Clean", "DiagonalTuning", "Renoised", "VelocityTuning"]

MOST_SEED = 2**31
EVERYONE = "all conditions"  # the name of all conditions together
Samples = TypeVar("Samples", bound=tuple)  # with z, tilt and cond, as Clean


class Clean(NamedTuple):
    """Clean samples with their rewards.

    Attributes:
        z: (B, *shape).
        tilt: scale * r(z), (B,), float64.
        cond: their conditions.
    """

    z: Tensor
    tilt: Tensor
    cond: Cond


class Renoised(NamedTuple):
    """Noisy samples made of clean ones.

    Attributes:
        clean: the clean samples (B).
        x_t, t: noisy samples (K B, *shape), and their times (K B,).
        path_velocity: I_t', (K B, *shape).
        source: the clean sample that each is made of, (K B,).
        cond: their conditions.
    """

    clean: Clean
    x_t: Tensor
    t: Tensor
    path_velocity: Tensor
    source: Tensor
    cond: Cond

    def shared(self, values: Float[Tensor, "b"]) -> Float[Tensor, "kb *ones"]:
        """Repeats a number of each clean sample for its noisy ones, shaped to multiply x_t by."""
        wide = values[self.source].to(self.x_t.dtype)
        return wide.view(-1, *[1] * (self.x_t.ndim - 1))


class VelocityTuning(RolloutObjective[Samples]):
    """Regression of the velocity on a target, and of the jumps on the map's own velocity.

    The samples it collects have z, tilt and cond, as those of `Clean`.

    Args:
        off_diagonal: what teaches the jumps; Semigroup() by default.
        pairs: law of (s, t) off the diagonal; sorted uniform times by default.
        off_weight: of the off-diagonal loss; 0 tunes the velocity alone. On two modes, 500 steps of
            RewardWeighted at .03, .3, 1, 3 and 10 left single jumps .22, .15, .13, .07 and .06
            (Wasserstein) from the tilt, and many steps .05, .04, .03, .04 and .06.
        reuse: optimizer steps on each set of samples.

    Raises:
        ValueError: settings out of range.
    """

    def __init__(
        self,
        *,
        off_diagonal: PairObjective | None = None,
        pairs: PairLaw | None = None,
        off_weight: NotNegative = 1.0,
        reuse: Count = 1,
    ):
        super().__init__(reuse)
        self.off_diagonal = off_diagonal or Semigroup()
        self.pairs = pairs or SortedPair()
        self.off_weight = off_weight

    @abstractmethod
    def diagonal(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Samples,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "m"], dict[str, Tensor]]:
        """Computes weighted squared residuals of the velocity, and terms for the log."""

    def loss(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Samples,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        clean = Clean(kept.z, kept.tilt, kept.cond)  # type: ignore[attr-defined]
        diagonal, terms = self.diagonal(flow_map, base, tilt, kept, generator)
        total = diagonal.mean()
        terms = {"tilt": clean.tilt.mean(), "diagonal": diagonal.detach().mean(), **terms}
        if self.off_weight > 0:
            off = self.off_residual(flow_map, clean, generator, step).mean()
            total = total + self.off_weight * off
            terms["off_diagonal"] = off.detach()
        return Loss(total, terms)

    def off_residual(
        self, flow_map: ResidualMap, clean: Clean, generator: torch.Generator, step: int
    ) -> Float[Tensor, "b"]:
        """Computes the squared off-diagonal residuals at the clean samples, renoised anew."""
        z = clean.z
        s, t = self.pairs.sample(len(z), generator)
        noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        pairs = Pairs(noise, z, s, t, clean.cond, step)
        return self.off_diagonal(flow_map, Target(flow_map, flow_map), pairs, generator)


class DiagonalTuning(VelocityTuning[Clean]):
    """Regression of u_{t,t} at renoised samples, and of the jumps on its own velocity.

    Args:
        sampler: what draws the clean samples; Jump(4) by default.
        noisings: noisy samples made of each clean one.
        times: law of t; uniform by default.
        data: clean samples (x1, cond) to use in place of the sampler's: their law is then what is
            tilted, and the batch size is theirs.
        labelled: whether the conditions of `data` are those of the map; false for a map without
            conditions, whose samples follow one law.
        more: off_diagonal, pairs, off_weight and reuse of VelocityTuning; samples that are kept are
            noised anew in every step.
    """

    record = Clean

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 1,
        *,
        times: TimeLaw | None = None,
        data: Stream | None = None,
        labelled: bool = True,
        **more: Any,
    ):
        super().__init__(**more)
        self.sampler = sampler or Jump(4)
        self.noisings = noisings
        self.times = times or Uniform()
        self.data = data
        self.labelled = labelled

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        if self.data is not None:
            self.data.prepare_data()
            self.data.setup("fit")

    @abstractmethod
    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        """Chooses the map whose samples are taken: the base, the map itself or an old copy."""

    @abstractmethod
    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "m"], dict[str, Tensor]]:
        """Computes the weighted squared residual of each noisy sample, and terms for the log."""

    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Clean:
        if self.data is None:
            z = drawn(self.sampler, self.source(flow_map, base), x0, cond, generator)
        else:
            z, cond = from_data(self.data, x0, generator)
            cond = cond if self.labelled else None
        value = tilt(z, cond, 1.0)
        if (value == -torch.inf).all():
            raise ValueError(
                f"all {len(value)} samples of a batch have the reward -inf, so that none can be"
                " learned from; draw more (batch_size), or soften the constraint"
            )
        return Clean(z, value, cond)

    def diagonal(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Clean,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "m"], dict[str, Tensor]]:
        seen = renoised(kept, flow_map.schedule, self.noisings, self.times, generator)
        return self.residual(flow_map, base, tilt, seen, generator)


def drawn(
    sampler: Sampler,
    flow_map: FlowMap,
    x0: Float[Tensor, "b *shape"],
    cond: Cond,
    generator: torch.Generator,
) -> Float[Tensor, "b *shape"]:
    """Draws one sample from each noise, without gradient and without a reward."""
    return sampler(flow_map, x0[:, None], None, cond, generator).x[:, 0]


def from_data(data: Stream, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Cond]:
    """Draws a batch of data, with its conditions, to where x0 is."""
    seed = torch.randint(MOST_SEED, (), generator=generator, device=generator.device)
    x1, cond = data.draw(keyed_generator("data", int(seed)))
    return x1.to(x0), to(cond, x0.device)


def renoised(
    clean: Clean, schedule: Schedule, noisings: int, times: TimeLaw, generator: torch.Generator
) -> Renoised:
    """Adds the noise of a random time to every clean sample, `noisings` times."""
    z = clean.z
    source = torch.arange(len(z), device=z.device).repeat(noisings)
    t = times.sample(len(source), generator)
    many = z[source]
    noise = torch.randn(many.shape, generator=generator, device=z.device, dtype=z.dtype)
    x_t = schedule.interpolate(noise, many, t)
    velocity = schedule.path_velocity(noise, many, t)
    return Renoised(clean, x_t, t, velocity, source, pick(clean.cond, source))


class LogMeanExp(torch.nn.Module):
    """Running estimates of log E[exp(v)], one for each condition; they are saved.

    A mean over the batch alone would correlate with its own samples and weaken the tilt by a part
    of order 1 / batch. Labels and texts, also those of a Condition, have estimates of their own,
    embeddings share one.

    Args:
        decay: of the average over steps.
    """

    def __init__(self, decay: float = 0.98):
        super().__init__()
        self.decay = decay
        self.values: dict[str, float] = {}
        self.steps: dict[str, int] = {}

    @torch.no_grad()
    def forward(self, v: Float[Tensor, "b"], cond: Cond = None) -> Float[Tensor, "b"]:
        """Returns the estimate for each sample, before this batch, and adds the batch.

        Of the first batch of a condition it is that batch's own; of a single sample, which cannot
        be compared with itself, that of all conditions.
        """
        v = v.double()
        estimates = torch.empty_like(v)
        everyone = torch.ones_like(v, dtype=torch.bool)
        overall = self.updated(EVERYONE, v, everyone)
        for name, mine in members(cond, len(v), v.device).items():
            alone = mine.sum() == 1 and name not in self.steps
            own = overall if name == EVERYONE else self.updated(name, v, mine)
            estimates[mine] = overall if alone or own.isinf() else own
        return torch.where(estimates.isinf(), 0.0, estimates)

    def updated(self, name: str, v: Float[Tensor, "b"], mine: Bool[Tensor, "b"]) -> Tensor:
        """Returns one estimate before this batch, and adds the batch.

        A batch without a finite value is not added to nothing.
        """
        batch = torch.logsumexp(v[mine], 0) - torch.log(mine.sum().double())
        steps = self.steps.get(name, 0)
        before = batch.new_tensor(self.values[name]) if steps else batch
        if steps or not batch.isinf():
            kept = min(self.decay, steps / (steps + 1))
            shares = batch.new_tensor([kept, 1 - kept])
            self.values[name] = float(
                torch.logsumexp(torch.stack((before, batch)) + shares.log(), 0)
            )
            self.steps[name] = steps + 1
        return before

    def get_extra_state(self) -> dict[str, dict]:
        return {"values": self.values, "steps": self.steps}

    def set_extra_state(self, state: dict[str, dict]) -> None:
        self.values = state["values"]
        self.steps = state["steps"]


def members(cond: Cond, n: int, device: torch.device) -> dict[str, Tensor]:
    """Which samples have each label or text: name -> (n,) of booleans."""
    names = names_of(cond)
    if names is None:
        return {EVERYONE: torch.ones(n, dtype=torch.bool, device=device)}
    return {
        name: torch.tensor([name == other for other in names], device=device)
        for name in dict.fromkeys(names)
    }


def advantages(tilt: Float[Tensor, "b"], cond: Cond) -> Float[Tensor, "b"]:
    """Subtracts from each sample's tilt the mean over the other samples of its prompt.

    For a prompt with one sample, the mean over the other samples of all prompts: any baseline that
    does not depend on the sample will do.

    Raises:
        ValueError: a reward of -inf, which has no mean.
    """
    if not tilt.isfinite().all():
        raise ValueError(
            "a reward of -inf has no advantage over others; use RewardWeighted or TiltMatching,"
            " which give it the weight zero, or a finite penalty"
        )
    prompt = prompts_of(cond, len(tilt)).to(tilt.device)
    number = prompt.bincount().to(tilt)
    mean = torch.zeros_like(number).index_add(0, prompt, tilt) / number
    n = number[prompt]
    of_prompt = (tilt - mean[prompt]) * n / (n - 1).clamp_min(1)
    of_all = (tilt - tilt.mean()) * len(tilt) / max(len(tilt) - 1, 1)
    return torch.where(n > 1, of_prompt, of_all)
