"""A sampler held against a world: how far log Z, mean and mode weights are from the truth, and the
samples from its law.

The repetitions are put together on the scale of Z, where an exact method errs by chance and by its
step alone: with Z_p the
estimate of repetition p and m_p its weighted mean, Z is mean_p Z_p and the mean is sum_p Z_p m_p /
sum_p Z_p. Methods without log Z have the plain mean. Standard errors are those over the
repetitions, of these ratios to first order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.analytic.benchmarks import World
from steer.counting import Evaluations
from steer.data.stream import keyed_generator
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from steer.resampling import effective_sample_size
from steer.samplers import Result, Sampler
from steer.tilt import Tilt

DRAWS, LINES, REPEATS = 4096, 32, 4  # of the distance to the true law
MOST = 16384  # samples that are held against it


class Size(NamedTuple):
    """How many independent repetitions, of how many particles, from which seed."""

    prompts: int
    particles: int
    seed: int


class Numbers(NamedTuple):
    """Something said of log Z (..., 1), NaN without one, of the mean (..., d) and of the mode
    weights (..., K).
    """

    log_z: Tensor
    mean: Tensor
    weights: Tensor


def std_error(influence: Numbers) -> Numbers:
    """Of a sum of what each repetition adds."""
    return Numbers(*(i.std(0) / len(i) ** 0.5 for i in influence))


@dataclass(frozen=True)
class Held:
    """One sampler at one number of steps in one world.

    Attributes:
        steps: of the sampler; None if it has none.
        error: of log Z, mean and mode weights.
        influence: what each repetition adds to the error, to first order, about its mean.
        distance: sliced Wasserstein distance to exact draws, over that of `ess` other exact draws;
            of the first round.
        ess: effective sample size of the repetitions of the first round together, clones counted as
            if independent.
        evaluations: per returned sample.
    """

    steps: int | None
    error: Numbers
    influence: Numbers
    distance: float
    ess: float
    evaluations: Evaluations


def hold(sampler: Sampler, steps: int | None, world: World, name: str, size: Size) -> Held:
    """Runs the sampler once, and measures. Raises as `draw` does."""
    return held_from(steps, draw(sampler, steps, world, name, size), world, name, size)


def hold_until(
    enough: Callable[[Sequence[Held]], bool],
    samplers: Mapping[int | None, Sampler],
    world: World,
    name: str,
    size: Size,
    rounds: int,
) -> list[Held]:
    """Runs each sampler, a number of steps each, in rounds of `size` until all rounds together are
    enough.

    Args:
        enough: whether to stop, asked after each round; what it is told has no distances.
        samplers: by their number of steps.
        world, name, size: as in `draw`.
        rounds: the most there may be.
    """
    results: dict[int | None, Result] = {}
    first: dict[int | None, Result] = {}
    for k in range(rounds):
        for steps, sampler in samplers.items():
            more = draw(sampler, steps, world, name, size, k)
            first.setdefault(steps, more)
            results[steps] = joined(results[steps], more) if steps in results else more
        found = [
            Held(n, *errors(r, world), math.nan, math.nan, r.evaluations)
            for n, r in results.items()
        ]
        if enough(found):
            break
    by_round = [held_from(steps, result, world, name, size) for steps, result in first.items()]
    return [
        replace(one, distance=each.distance, ess=each.ess)
        for one, each in zip(found, by_round, strict=True)
    ]


def draw(
    sampler: Sampler, steps: int | None, world: World, name: str, size: Size, k: int = 0
) -> Result:
    """Round k of a sampler in a world, from the same noise at every number of steps.

    Raises:
        ValueError: what the sampler raises, or a result that is not finite or of the wrong shape;
            names the world.
    """
    key = (name, size.seed, k) if k else (name, size.seed)
    x0 = torch.randn(
        *size[:2], world.dimension, generator=keyed_generator("x0", *key), dtype=torch.float64
    )
    generator = keyed_generator("verify", name, steps or 0, *key[1:])
    try:
        return checked(sampler(world.flow_map, x0, Tilt(world.reward), generator=generator), size)
    except ValueError as error:
        raise ValueError(f"in the world {name!r}: {error}") from error


def joined(a: Result, b: Result) -> Result:
    """The repetitions of two results of one sampler."""
    log_z = None if a.log_z is None or b.log_z is None else torch.cat((a.log_z, b.log_z))
    return replace(a, x=torch.cat((a.x, b.x)), log_w=torch.cat((a.log_w, b.log_w)), log_z=log_z)


def held_from(steps: int | None, result: Result, world: World, name: str, size: Size) -> Held:
    """What a result says of its sampler; the distance and the effective sample size are of about
    MOST samples at most.
    """
    some = max(MOST // size.particles, 1)
    level = torch.zeros_like(result.log_w[:, :1]) if result.log_z is None else result.log_z[:, None]
    log_w = (result.log_w.log_softmax(1) + level)[:some].flatten()
    ess = float(effective_sample_size(log_w[None]))
    x = result.x[:some].flatten(0, 1)
    distance = over_floor(x, log_w, ess, world, keyed_generator("truth", name, size.seed))
    return Held(steps, *errors(result, world), distance, ess, result.evaluations)


def checked(result: Result, size: Size) -> Result:
    """The result, if there is something to measure."""
    if len(result.x) != size.prompts or result.log_w.shape != result.x.shape[:2]:
        shapes = f"{tuple(result.x.shape)} and {tuple(result.log_w.shape)}"
        raise ValueError(
            f"expected x (prompts, particles, d) and log_w (prompts, particles); got {shapes}"
        )
    if result.log_z is not None and result.log_z.shape != (size.prompts,):
        raise ValueError(f"expected log_z (prompts,), or None; got {tuple(result.log_z.shape)}")
    for what, values in (("x", result.x), ("log_w", result.log_w), ("log_z", result.log_z)):
        fine = (
            values is None
            or (values.isfinite() | ((values == -torch.inf) & (what == "log_w"))).all()
        )
        if not fine:
            raise ValueError(f"the sampler returned {what} with entries that are NaN or infinite")
    return result


def errors(result: Result, world: World) -> tuple[Numbers, Numbers]:
    """Errors of the repetitions put together, and what each adds to them."""
    w = result.log_w.softmax(1)
    modes = world.responsibilities(result.x.flatten(0, 1)).unflatten(0, w.shape)
    log_z = torch.zeros_like(w[:, 0]) if result.log_z is None else result.log_z
    level = log_z.logsumexp(0) - math.log(len(w))
    z = (log_z - level).exp()[:, None]

    def ratio(values: Float[Tensor, "p n k"], truth: Float[Tensor, "k"]) -> tuple[Tensor, Tensor]:
        means = torch.einsum("pn,pnk->pk", w, values)
        mean = (z * means).mean(0)
        return mean - truth, z * (means - mean)

    none = (torch.full_like(z[0], torch.nan), torch.full_like(z, torch.nan))
    of_log_z = none if result.log_z is None else ((level - world.log_z)[None], z - 1)
    error, influence = zip(
        of_log_z, ratio(result.x, world.mean), ratio(modes, world.weights), strict=True
    )
    return Numbers(*error), Numbers(*influence)


def over_floor(
    x: Tensor, log_w: Tensor, ess: float, world: World, generator: torch.Generator
) -> float:
    """Distance of the weighted samples to exact draws, over that of other exact draws, as many as
    they are worth.
    """
    lines = random_directions(LINES, world.dimension, generator)
    real, n = world.sample(DRAWS, generator), max(round(ess), 1)
    floor = [sliced_wasserstein(world.sample(n, generator), real, lines) for _ in range(REPEATS)]
    return float(sliced_wasserstein(x, real, lines, log_w_x=log_w) / torch.stack(floor).mean())
