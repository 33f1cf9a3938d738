"""What every sampler shares: prompts x particles in one batch, one loop over time, and what comes
back.

x0 (prompts, particles, *shape) is flattened to (B, *shape) with the particles of a prompt side by
side; a sampler is a `start`, a `step` from s to t and a `finish` on that batch. Chance is drawn per
prompt, so what happens to a prompt does not depend on which others share the batch, and the network
is called on at most `max_batch` samples at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from operator import index
from typing import Any, Generic, Literal, SupportsIndex, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer import counting
from steer.annotations import checked
from steer.counting import Evaluations
from steer.flow_map import Cond, FlowMap, for_particles
from steer.progress import track
from steer.randomness import PromptKeys as PromptKeys
from steer.randomness import prompt_generators
from steer.resampling import log_mean_exp, unweighted
from steer.samplers.divergence import Reach
from steer.tilt import NonFiniteReward, Tilt

__all__ = ["Result", "Run", "Sampler", "Stepwise"]

Claim = Literal["exact", "exact for the chain", "biased", "maximiser"]
State = TypeVar("State")


@dataclass(frozen=True)
class Result:
    """What a sampler returns.

    Attributes:
        x: samples (prompts, particles, *shape).
        log_w: their log weights (prompts, particles) in float64, not normalised: averages under the
            promised law weigh by them.
        log_z: estimate of log E[exp(scale r)] (prompts,) in float64, or None from a method that has
            none.
        tilt: scale * r(x) (prompts, particles) in float64, or None without a reward.
        trace: one row per step: "t" (T,), and whatever the method tells of "ess", "resampled",
            "reward", "film"; with the times "seen_t" or "film_t" where not every step does.
        evaluations: forward and backward passes per returned sample.
        claim: what holds for this sampler on this map, see `Sampler`.
    """

    x: Tensor
    log_w: Tensor
    log_z: Tensor | None
    tilt: Tensor | None = None
    trace: dict[str, Tensor] = field(default_factory=dict)
    evaluations: Evaluations = field(default_factory=Evaluations)
    claim: Claim | None = None

    def resampled(
        self, n: int, generator: torch.Generator | None = None, prompt_keys: PromptKeys = None
    ) -> Float[Tensor, "p n *shape"]:
        """n samples of each prompt, drawn by the weights, to be used without them: see
        `steer.resampling.unweighted`.

        The order of the population does not matter; equal weights give a random subset without
        replacement. Sample i occurs n w_i times, rounded down or up.

        Args:
            n: how many to keep of each prompt.
            generator: source of randomness; the default generator if None.
            prompt_keys: integers that key each prompt's draw, so that it does not depend on which
                other prompts there are; 0 .. P - 1 if None.

        Raises:
            ValueError: n below 1, keys that do not match the prompts, or a prompt without a finite
                weight.
        """
        kept = unweighted(self.log_w, n, generator, prompt_keys).to(self.x.device)
        return torch.stack([x[index] for x, index in zip(self.x, kept, strict=True)])


class Run:
    """One call of a sampler: its inputs on the flattened batch, its random generators, and the
    record of its steps.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        x0: Tensor,
        tilt: Tilt | None,
        cond: Cond,
        generator: torch.Generator | None,
        prompt_keys: PromptKeys = None,
    ):
        if x0.ndim < 3:
            raise ValueError(
                f"x0 has shape (prompts, particles, *shape); got {tuple(x0.shape)}. Use x0[None] for one prompt"
            )
        if x0.numel() == 0:
            raise ValueError(
                f"x0 needs at least one prompt and one particle; got shape {tuple(x0.shape)}"
            )
        if not x0.isfinite().all():
            raise ValueError("x0 has entries that are NaN or infinite; draw it with torch.randn")
        self.prompts, self.particles = x0.shape[:2]
        if cond is not None and len(cond) != self.prompts:
            raise ValueError(
                f"cond has one entry per prompt, {self.prompts} of them; got {len(cond)}"
            )
        if tilt is not None and not isinstance(tilt, Tilt):
            raise ValueError(
                f"tilt is a reward at a scale; got a {type(tilt).__name__}: pass tilt=steer.Tilt(reward)"
            )
        tilt = None if tilt is None else tilt.in_order(cond)
        if tilt is not None and tilt.scale.ndim and len(tilt.scale) != self.prompts:
            raise ValueError(
                f"a tilt has one scale, or one per prompt, {self.prompts} of them; got {len(tilt.scale)}"
            )
        self.flow_map, self.tilt, self.device = flow_map, tilt, x0.device
        self.cond = for_particles(cond, self.particles)
        self.prompt = torch.arange(self.prompts).repeat_interleave(
            self.particles
        )  # of each sample of the batch
        self.generators = prompt_generators(self.prompts, prompt_keys, generator, x0.device)
        self.collapsed = (
            False  # whether it has been said that the weights have come down to one particle
        )
        self.records: list[dict[str, Tensor]] = []

    def by_prompt(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "p n *shape"]:
        """The batch as (prompts, particles, ...)."""
        return x.unflatten(0, (self.prompts, self.particles))

    def normal(
        self, like: Float[Tensor, "b *shape"], rows: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *shape"]:
        """Standard normal noise for the batch, or for these rows of it, every prompt's from its own
        generator.
        """
        shape, dtype, device = like.shape[1:], like.dtype, like.device
        shares = zip(self.shares(rows), self.generators, strict=True)
        return torch.cat(
            [
                torch.randn((n, *shape), generator=g, dtype=dtype, device=device)
                for n, g in shares
                if n
            ]
        )

    def shares(self, rows: Int[Tensor, "b"] | None = None) -> list[int]:
        """How many samples of the batch, or of these rows of it, each prompt has."""
        prompt = self.prompt if rows is None else self.prompt[rows.cpu()]
        return prompt.bincount(minlength=self.prompts).tolist()

    def ancestors(
        self, scheme: Callable, log_w: Float[Tensor, "p n"], chosen: Bool[Tensor, "p"]
    ) -> Int[Tensor, "p n"]:
        """A resampling scheme applied to each chosen prompt with its own generator; the others stay
        as they are.
        """
        stay = torch.arange(self.particles, device=self.device)[None]
        rows = zip(log_w, self.generators, chosen.tolist(), strict=True)
        return torch.cat([scheme(row[None], g) if due else stay for row, g, due in rows])

    def batches(
        self, most: int | None, apart: bool = False, rows: Int[Tensor, "b"] | None = None
    ) -> list[slice]:
        """The batch, or these rows of it, in pieces of at most `most`, and with `apart` no two
        prompts in one piece.
        """
        wholes = self.shares(rows) if apart else [sum(self.shares(rows))]
        ends = zip(wholes, accumulate(wholes), strict=True)
        return [
            slice(i, min(i + (most or n), end))
            for n, end in ends
            if n
            for i in range(end - n, end, most or n)
        ]

    def cond_of(self, rows: Int[Tensor, "b"] | None = None) -> Cond:
        """The conditions of the batch, or of these rows of it."""
        if rows is None or self.cond is None:
            return self.cond
        return (
            [self.cond[i] for i in rows.tolist()]
            if isinstance(self.cond, list)
            else self.cond[rows]
        )

    def record(self, **row: Tensor | float) -> None:
        """Adds a row to the trace."""
        self.records.append(
            {name: torch.as_tensor(value).detach().cpu() for name, value in row.items()}
        )

    def trace(self) -> dict[str, Tensor]:
        """The rows stacked; a quantity is stacked over the steps that recorded it."""
        names = dict.fromkeys(name for row in self.records for name in row)
        return {
            name: torch.stack([row[name] for row in self.records if name in row]) for name in names
        }


class Sampler(ABC):
    """sampler(flow_map, x0, tilt, cond, generator, prompt_keys) -> Result.

    `claim` says what its weighted samples follow, for a map whose jumps and score belong to its
    velocity:

    - "exact": p_1 exp(scale r) / Z in the limit of steps and particles, p_1 the law to which the
      probability flow dx/dt = b_t(x) carries the noise;
    - "exact for the chain": q exp(scale r) / Z in the limit of particles, q the law that the same
      chain draws from without a reward, at this noise level and this number of steps;
    - "biased": something near the tilted law;
    - "maximiser": high reward, no stated law.

    A claim belongs to a sampler and a map: `claim_on(flow_map)` is the one that holds for both, and
    `Result.claim` reports it.
    With classifier-free guidance, for one, the velocity's score is not that of its flow, and every
    noise level has a law of its own.
    """

    claim: Claim

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def claim_on(self, flow_map: FlowMap) -> Claim:
        """The claim that holds on this map."""
        return self.claim

    @abstractmethod
    def __call__(
        self,
        flow_map: FlowMap,
        x0: Float[Tensor, "p n *shape"],
        tilt: Tilt | None = None,
        cond: Cond = None,
        generator: torch.Generator | None = None,
        prompt_keys: PromptKeys = None,
    ) -> Result:
        """Samples from noise.

        Args:
            flow_map: the model.
            x0: noise, (prompts, particles, *shape).
            tilt: the reward and its scale. A method that does not steer only weighs its samples by
                it.
            cond: one entry per prompt, or None.
            generator: source of all randomness beyond x0; the default generator if None.
            prompt_keys: one integer per prompt that keys its randomness, 0 ... P-1 by default.
                Permuting, sharding or leaving out prompts changes nothing for the others when the
                keys go with them.

        Raises:
            NonFiniteReward: naming the sample and the time.
            ValueError: shapes that do not fit.
        """


class Stepwise(Sampler, Generic[State]):
    """A sampler that walks a grid of times: a `start`, a `step` from s to t, a `finish`.

    Args:
        steps: steps from t = 0 to t = 1.
        max_batch: the most samples the network and reward see at once; None for all. Changes
            memory, not results.
    """

    def __init__(self, steps: int, max_batch: int | None = None):
        if isinstance(steps, bool) or not isinstance(steps, SupportsIndex):
            raise ValueError(
                f"{type(self).__name__} takes a whole number of steps first; got {steps!r}"
            )
        steps = index(steps)
        if steps < 1:
            raise ValueError(f"{type(self).__name__} needs at least one step; got steps={steps}")
        if max_batch is not None and max_batch < 1:
            raise ValueError(
                f"max_batch is a number of samples, at least 1, or None; got {max_batch}"
            )
        self.steps, self.max_batch = steps, max_batch

    def times(self) -> list[float]:
        """The grid of the loop, from 0 to 1."""
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64).tolist()

    @abstractmethod
    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> State:
        """The state at t = 0."""

    @abstractmethod
    def step(self, run: Run, state: State, s: float, t: float) -> State:
        """The state at t from the state at s."""

    @abstractmethod
    def finish(self, run: Run, state: State) -> Result:
        """The result at t = 1, without trace and evaluations."""

    @torch.no_grad()
    def __call__(
        self,
        flow_map: FlowMap,
        x0: Float[Tensor, "p n *shape"],
        tilt: Tilt | None = None,
        cond: Cond = None,
        generator: torch.Generator | None = None,
        prompt_keys: PromptKeys = None,
    ) -> Result:
        for name, value in vars(self).items():
            if isinstance(value, type):
                raise ValueError(
                    f"{name} is the class {value.__name__}; build one: {name}={value.__name__}()"
                )
        run = Run(flow_map, x0, tilt, cond, generator, prompt_keys)
        with counting.count() as tally:
            state = self.start(run, x0.flatten(0, 1))
            reach = Reach(type(self).__name__, x0.flatten(0, 1))
            for s, t in track(list(pairwise(self.times()))):
                state = self.step(run, state, s, t)
                reach.keep(state, t)
            reach.warn()
            result = self.finish(run, state)
        returned = result.x.shape[0] * result.x.shape[1]
        claim = self.claim_on(flow_map)
        return replace(result, trace=run.trace(), evaluations=tally.per(returned), claim=claim)

    def in_batches(
        self,
        function: Callable,
        run: Run,
        *tensors: Tensor,
        apart: bool = False,
        rows: Int[Tensor, "b"] | None = None,
    ):
        """function(*parts, cond part) on at most max_batch samples at a time; the results, tensors
        or tuples, joined.

        With `apart`, samples of different prompts do not meet in a part, so that the part may draw
        for its prompt. With `rows`, in rising order, the tensors are of those samples of the batch
        alone.
        """
        parts, cond = [], run.cond_of(rows)
        for piece in run.batches(self.max_batch, apart, rows):
            try:
                parts.append(
                    function(*(x[piece] for x in tensors), None if cond is None else cond[piece])
                )
            except NonFiniteReward as error:
                at = piece.start + error.sample
                raise error.further(
                    (at if rows is None else int(rows[at])) - error.sample
                ) from None
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        columns = zip(*parts, strict=True)
        return type(parts[0])(
            *(None if column[0] is None else torch.cat(column) for column in columns)
        )

    def weigh(self, run: Run, x: Float[Tensor, "b *shape"]) -> Result:
        """x as samples of the model itself, importance-weighted by the tilt: exact, if wasteful,
        for p_1 exp(scale r).
        """
        if run.tilt is None:
            zeros = x.new_zeros(run.prompts, run.particles, dtype=torch.float64)
            return Result(run.by_prompt(x), zeros, zeros[:, 0])
        tilt = self.tilt_of(run, x)
        return Result(run.by_prompt(x), tilt, log_mean_exp(tilt), tilt)

    def tilt_of(self, run: Run, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "p n"]:
        """scale * r at clean samples."""
        tilt = run.tilt
        assert tilt is not None
        return run.by_prompt(
            self.in_batches(
                lambda x, scale, cond: tilt.with_scale(scale)(x, cond, 1.0),
                run,
                x,
                tilt.scale_for(len(x)),
            )
        )
