"""Errors of a sampler in a world of known truth: log Z, mean, mode weights and distance to the law.

Repetitions are averaged on the scale of Z, where the only errors of an exact method are noise and
its step error: with Z_p the estimate of repetition p and m_p its weighted mean, Z is mean_p Z_p and
the mean is sum_p Z_p m_p / sum_p Z_p. Methods without log Z have the plain mean. Standard errors
are those over the repetitions, of these ratios to first order (the delta method).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from steer.analytic.benchmarks import World
from steer.counting import Evaluations
from steer.data.stream import keyed_generator
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from steer.resampling import effective_sample_size
from steer.samplers import Result, Sampler
from steer.tilt import Tilt

DRAWS = 4096  # exact ones that samples are compared with
DIRECTIONS = 32  # of the sliced distance
REPEATS = 4  # of the distance between exact draws
MOST = 16384  # samples that are compared


class SampleSize(NamedTuple):
    """How many independent repetitions (prompts), of how many particles, from which seed."""

    prompts: int
    particles: int
    seed: int


class Statistics(NamedTuple):
    """Values for log Z (..., 1), the mean (..., d) and the mode weights (..., K).

    NaN for log Z where a method has no estimate of it.
    """

    log_z: Tensor
    mean: Tensor
    weights: Tensor


def std_error(influence: Statistics) -> Statistics:
    """The standard error of the mean of influences (repetitions, ...)."""
    return Statistics(*(i.std(0) / len(i) ** 0.5 for i in influence))


@dataclass(frozen=True)
class Measurement:
    """One sampler at one number of steps in one world.

    Attributes:
        steps: of the sampler; None if it has none.
        error: of log Z, mean and mode weights.
        influence: the influence function of each repetition on the error, about its mean.
        distance: sliced Wasserstein distance to exact draws, over that of `ess` other exact draws;
            of the first round.
        ess: effective sample size of the repetitions of the first round together, copies counted as
            if independent.
        evaluations: per returned sample.
    """

    steps: int | None
    error: Statistics
    influence: Statistics
    distance: float
    ess: float
    evaluations: Evaluations


def measure(
    sampler: Sampler, steps: int | None, world: World, name: str, size: SampleSize
) -> Measurement:
    """Runs the sampler once, and measures. Raises as `draw` does."""
    return measurement_of(steps, draw(sampler, steps, world, name, size), world, name, size)


def measure_until(
    done: Callable[[Sequence[Measurement]], bool],
    samplers: Mapping[int | None, Sampler],
    world: World,
    name: str,
    size: SampleSize,
    rounds: int,
) -> list[Measurement]:
    """Runs each sampler in rounds of `size` until all rounds together suffice.

    Args:
        done: whether to stop, asked after each round; its measurements have no distances.
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
            Measurement(n, *errors(r, world), math.nan, math.nan, r.evaluations)
            for n, r in results.items()
        ]
        if done(found):
            break
    of_first = [measurement_of(steps, result, world, name, size) for steps, result in first.items()]
    return [
        replace(one, distance=each.distance, ess=each.ess)
        for one, each in zip(found, of_first, strict=True)
    ]


def draw(
    sampler: Sampler, steps: int | None, world: World, name: str, size: SampleSize, k: int = 0
) -> Result:
    """Round k of a sampler in a world, from the same noise at every number of steps.

    Raises:
        ValueError: what the sampler raises, or a result that is not finite or of the wrong shape;
            names the world.
    """
    key = (name, size.seed, k) if k else (name, size.seed)
    source = keyed_generator("x0", *key)
    shape = (size.prompts, size.particles, world.dimension)
    x0 = torch.randn(shape, generator=source, dtype=torch.float64)
    generator = keyed_generator("verify", name, steps or 0, *key[1:])
    try:
        return checked(sampler(world.flow_map, x0, Tilt(world.reward), generator=generator), size)
    except ValueError as error:
        raise ValueError(f"in the world {name!r}: {error}") from error


def joined(a: Result, b: Result) -> Result:
    """The repetitions of two results of one sampler."""
    log_z = None if a.log_z is None or b.log_z is None else torch.cat((a.log_z, b.log_z))
    return replace(a, x=torch.cat((a.x, b.x)), log_w=torch.cat((a.log_w, b.log_w)), log_z=log_z)


def measurement_of(
    steps: int | None, result: Result, world: World, name: str, size: SampleSize
) -> Measurement:
    """The measurement of a result.

    Distance and effective sample size are those of about MOST samples at most.
    """
    some = max(MOST // size.particles, 1)
    log_z = torch.zeros_like(result.log_w[:, 0]) if result.log_z is None else result.log_z
    log_w = (result.log_w.log_softmax(1) + log_z[:, None])[:some].flatten()
    ess = float(effective_sample_size(log_w[None]))
    x = result.x[:some].flatten(0, 1)
    distance = over_floor(x, log_w, ess, world, keyed_generator("truth", name, size.seed))
    return Measurement(steps, *errors(result, world), distance, ess, result.evaluations)


def checked(result: Result, size: SampleSize) -> Result:
    """The result. Raises ValueError if its shapes are wrong, or its values not finite."""
    if len(result.x) != size.prompts or result.log_w.shape != result.x.shape[:2]:
        shapes = f"{tuple(result.x.shape)} and {tuple(result.log_w.shape)}"
        raise ValueError(
            f"expected x (prompts, particles, d) and log_w (prompts, particles); got {shapes}"
        )
    if result.log_z is not None and result.log_z.shape != (size.prompts,):
        raise ValueError(f"expected log_z (prompts,), or None; got {tuple(result.log_z.shape)}")
    finite = {
        "x": result.x.isfinite().all(),
        "log_w": (result.log_w.isfinite() | (result.log_w == -torch.inf)).all(),
        "log_z": result.log_z is None or result.log_z.isfinite().all(),
    }
    for name, fine in finite.items():
        if not fine:
            raise ValueError(f"the sampler returned {name} with entries that are NaN or infinite")
    return result


def errors(result: Result, world: World) -> tuple[Statistics, Statistics]:
    """Errors of the repetitions together, and the influence of each on them."""
    w = result.log_w.softmax(1)
    modes = world.responsibilities(result.x.flatten(0, 1)).unflatten(0, w.shape)
    log_z = torch.zeros_like(w[:, 0]) if result.log_z is None else result.log_z
    log_mean_z = log_z.logsumexp(0) - math.log(len(w))
    z = (log_z - log_mean_z).exp()[:, None]

    def ratio(values: Float[Tensor, "p n k"], truth: Float[Tensor, "k"]) -> tuple[Tensor, Tensor]:
        means = torch.einsum("pn,pnk->pk", w, values)
        mean = (z * means).mean(0)
        return mean - truth, z * (means - mean)

    of_log_z = ((log_mean_z - world.log_z)[None], z - 1)
    if result.log_z is None:
        of_log_z = (torch.full_like(z[0], torch.nan), torch.full_like(z, torch.nan))
    of_mean = ratio(result.x, world.mean)
    of_weights = ratio(modes, world.weights)
    error, influence = zip(of_log_z, of_mean, of_weights, strict=True)
    return Statistics(*error), Statistics(*influence)


def over_floor(x: Tensor, log_w: Tensor, ess: float, world: World, generator: Generator) -> float:
    """Sliced Wasserstein distance of weighted samples to exact draws, relative to its floor.

    The floor is that of `ess` other exact draws.
    """
    lines = random_directions(DIRECTIONS, world.dimension, generator)
    real = world.sample(DRAWS, generator)
    n = max(round(ess), 1)
    floor = [sliced_wasserstein(world.sample(n, generator), real, lines) for _ in range(REPEATS)]
    return float(sliced_wasserstein(x, real, lines, log_w_x=log_w) / torch.stack(floor).mean())
