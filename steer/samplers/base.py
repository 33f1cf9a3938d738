"""The sampler interface, the loop over time that most share, and the result.

x0 (prompts, particles, *shape) is flattened to (B, *shape) with the particles of a prompt side by
side; a sampler is a `start`, a `step` from s to t and a `finish` on that batch. Randomness is
keyed per prompt, so that results are independent of batch composition, and the network is called
on at most `max_batch` samples at a time.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, SupportsIndex, TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from steer import counting
from steer.annotations import Count, checked
from steer.construction import call_of, remembered
from steer.counting import Evaluations
from steer.flow_map import Cond, FlowMap
from steer.progress import track
from steer.randomness import PromptKeys as PromptKeys
from steer.resampling import effective_sample_size, log_mean_exp, unweighted
from steer.samplers.divergence import Reach
from steer.samplers.run import Run as Run
from steer.tilt import Tilt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Result", "Sampler", "Stepwise"]

Claim = Literal["exact", "exact for the chain", "biased", "maximiser"]
State = TypeVar("State")


@dataclass(frozen=True, repr=False)
class Result:
    """What a sampler returns. A notebook shows its samples, if they are pictures or in the plane.

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
        """Draws n samples of each prompt by their weights, to be used without weights.

        See `steer.resampling.unweighted`. Sample i occurs n w_i times, rounded down or up; equal
        weights give a random subset without replacement. The order of the population has no effect.

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

    def __repr__(self) -> str:
        prompts, particles, *shape = self.x.shape
        ess = effective_sample_size(self.log_w)
        exact = self.claim in ("exact", "exact for the chain")
        spent = ", ".join(
            f"{n:.4g} {name.replace('_', ' ')}" for name, n in asdict(self.evaluations).items() if n
        )
        said = [
            f"{prompts} x {particles} samples of shape {tuple(shape)}",
            "no claim" if self.claim is None else self.claim,
            f"ESS {ess.mean():.1f} of {particles}",
            f"log Z {self.log_z.mean():.4g}" if self.log_z is not None and exact else "",
            f"evaluations a sample: {spent}" if spent else "",
        ]
        return f"Result({'; '.join(part for part in said if part)})"

    def grid(
        self,
        decode: Callable[[Tensor], Tensor] | None = None,
        titles: Sequence[str] = (),
        columns: Count = 8,
    ) -> "Image":
        """Draws samples in proportion to their weights: a row of pictures for each prompt, or the
        points of the plane.

        Args:
            decode: samples (b, *shape) -> images in [0, 1]; by default (x + 1) / 2, for samples
                of one channel or three.
            titles: one per prompt: of the rows of images, or of panels of points, which are drawn
                in one panel without them.
            columns: pictures of a row.

        Raises:
            ValueError: samples that are no images, without `decode`; another number of titles.
        """
        from steer.plots.of_results import grid_of  # which loads matplotlib

        return grid_of(self, decode, titles, columns)

    def filmstrip(
        self, decode: Callable[[Tensor], Tensor] | None = None, titles: Sequence[str] = ()
    ) -> "Image":
        """Draws what the look-ahead saw at each time, from left to right.

        Args:
            decode, titles: as in `grid`.

        Raises:
            ValueError: a sampler that was not asked for a film, as in `TrajectoryTilting(film=1)`.
        """
        from steer.plots.of_results import filmstrip_of

        return filmstrip_of(self, decode, titles)

    def save(self, folder: str | Path, decode: Callable[[Tensor], Tensor] | None = None) -> Path:
        """Writes samples.safetensors (x, log_w, and log_z, tilt and the trace where there are any),
        result.json, and grid.png and filmstrip.png where they can be drawn.

        Args:
            folder: made if it is not there; files of these names are replaced.
            decode: as in `grid`.

        Returns:
            The folder.
        """
        home = Path(folder).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        known = {"x": self.x, "log_w": self.log_w, "log_z": self.log_z, "tilt": self.tilt}
        known |= {f"trace.{name}": value for name, value in self.trace.items()}
        tensors = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in known.items()
            if value is not None
        }
        save_file(tensors, home / "samples.safetensors")
        about = {
            "claim": self.claim,
            "log_z": None if self.log_z is None else self.log_z.tolist(),
            "ess": effective_sample_size(self.log_w).tolist(),
            "evaluations": asdict(self.evaluations),
        }
        (home / "result.json").write_text(json.dumps(about, indent=2) + "\n")
        if decode is not None or self._is_drawn:
            self.grid(decode).save(home / "grid.png")
            if "film" in self.trace:
                self.filmstrip(decode).save(home / "filmstrip.png")
        return home

    @property
    def _is_drawn(self) -> bool:
        """Whether the samples are pictures of one channel or three, or points of the plane."""
        shape = self.x.shape[2:]
        return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))

    def _repr_png_(self) -> bytes | None:
        """The samples, for notebooks; None where they are no pictures."""
        if not self._is_drawn or not self.x.isfinite().all():
            return None
        file = BytesIO()
        self.grid().save(file, "PNG")
        return file.getvalue()


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
    `Result.claim` reports it. With classifier-free guidance, for example, the velocity's score is
    not that of its flow, and every noise level has a law of its own.

    Attributes:
        claim: the claim above.
        deterministic: whether the samples are a function of x0 alone.
        needs_gradient: whether it follows the gradient of the reward.
    """

    claim: Claim
    deterministic: bool = False
    needs_gradient: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]
        remembered(cls)

    def __repr__(self) -> str:
        return call_of(self)

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
    """A sampler on a grid of times: a `start`, a `step` from s to t, a `finish`.

    Attributes:
        shift: how much the grid is shifted towards the noise, 1 for not at all; see `shifted`.

    Args:
        steps: steps from t = 0 to t = 1.
        max_batch: the most samples the network and reward see at once; None for all. Changes
            memory, not results.
    """

    shift: float = 1.0

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
        """The grid of the loop, from 0 to 1: uniform, or shifted towards the noise."""
        left = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)
        return (1 - self.shift * left / (1 + (self.shift - 1) * left)).tolist()

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
        run = Run(flow_map, x0, tilt, cond, generator, prompt_keys, self.max_batch)
        with counting.count() as tally:
            x = run.from_noise(x0.flatten(0, 1))
            state = self.start(run, x)
            reach = Reach(type(self).__name__, x)
            for s, t in track(list(pairwise(self.times()))):
                state = self.step(run, state, s, t)
                run.steps += 1
                reach.keep(state, t)
            reach.warn()
            result = self.finish(run, state)
        returned = result.x.shape[0] * result.x.shape[1]
        claim = self.claim_on(flow_map)
        return replace(result, trace=run.trace(), evaluations=tally.per(returned), claim=claim)


def importance_weighted(run: Run, x: Float[Tensor, "b *shape"]) -> Result:
    """Weighs samples of the model itself by the tilt: exact, if wasteful, for p_1 exp(scale r)."""
    if not run.steered:
        zeros = x.new_zeros(run.prompts, run.particles, dtype=torch.float64)
        return Result(run.by_prompt(x), zeros, zeros[:, 0])
    tilt = run.tilt_of(x)
    return Result(run.by_prompt(x), tilt, log_mean_exp(tilt), tilt)


def unweighted_result(
    run: Run, x: Float[Tensor, "b *shape"], tilt: Float[Tensor, "p n"] | None = None
) -> Result:
    """Samples of equal weight without an estimate of Z; their tilt is evaluated unless known."""
    tilt = run.tilt_of(x) if tilt is None else tilt
    return Result(run.by_prompt(x), torch.zeros_like(tilt), None, tilt)
