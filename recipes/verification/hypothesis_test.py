"""The test of a sampler's claim in one world: errors extrapolated to step zero, in standard errors.

Several numbers of steps of one sampler are combined by Richardson extrapolation. An exact method
passes if log Z, mean and mode weights are then within `WITHIN` standard errors of the truth, and if
the run was large enough to detect errors of `LIMITS`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from recipes.evaluation.metrics import Figures
from recipes.verification.measurement import Measurement, Statistics, std_error
from steer.analytic.benchmarks import World
from steer.data.stream import keyed_generator
from steer.samplers.base import Claim

WITHIN = 3.0  # standard errors
LIMITS = {"log_z": 0.02, "mean": 0.05, "mode_weights": 0.05}  # errors that a pass must detect
CERTAIN = 6.0  # standard errors at which no further repetitions are asked for
SPREAD_DRAWS = 4096  # of the true law, for its standard deviations
RARE = 0.01  # a mode of less weight gets too few samples for a standard error, and is not tested
ROUNDING = 1e-6  # of the truth: error of the worlds' quadratures


@dataclass(frozen=True)
class Assessment:
    """The outcome of the test of a sampler in a world.

    Attributes:
        error, std_error: at step zero.
        log_z, mean, weights: the largest of these errors in standard errors, as `z_score` counts;
            log_z is NaN without an estimate of it.
        order: of convergence of log Z, and its standard error; None where errors are below the
            noise.
        smallest: the smallest detectable errors, of "log_z", "mean" and "mode_weights": see
            `smallest_detectable`.
        result: "pass", "fail" or "inconclusive" for a claim to be exact, "none" for any other.
    """

    error: Statistics
    std_error: Statistics
    log_z: float
    mean: float
    weights: float
    order: tuple[float, float] | None
    smallest: dict[str, float]
    result: str


def assess(runs: Sequence[Measurement], world: World, claim: Claim) -> Assessment:
    """Tests the claim of a sampler in one world.

    Args:
        runs: of the same sampler at different numbers of steps.
        world: with the true log Z, mean and mode weights.
        claim: only "exact" is tested.
    """
    error, influence = at_step_zero(runs)
    noise = std_error(influence)
    repetitions = len(influence.mean)
    tested = world.weights > RARE
    log_z = z_score(error.log_z, noise.log_z, repetitions)
    mean = z_score(error.mean, noise.mean, repetitions)
    weights = z_score(error.weights[tested], noise.weights[tested], repetitions)
    smallest = smallest_detectable(noise, world, repetitions)
    result = "none"
    if claim == "exact":
        off = any(value > WITHIN for value in (log_z, mean, weights))
        # without an estimate of log Z its smallest error is NaN, which is not above the limit
        vague = any(smallest[name] > limit for name, limit in LIMITS.items())
        result = "fail" if off else "inconclusive" if vague else "pass"
    return Assessment(error, noise, log_z, mean, weights, order(runs), smallest, result)


def is_decided(runs: Sequence[Measurement], world: World) -> bool:
    """Whether further repetitions are unnecessary.

    All errors of LIMITS can be detected, or one error is certain.
    """
    found = assess(runs, world, "exact")
    known = [value for value in (found.log_z, found.mean, found.weights) if value == value]
    vague = any(found.smallest[name] > limit for name, limit in LIMITS.items())
    return max(known) > CERTAIN or not vague


def smallest_detectable(noise: Statistics, world: World, repetitions: int) -> dict[str, float]:
    """The smallest errors beyond WITHIN standard errors.

    Each is given as the log factor on the weights that causes it.

    log_z: of log Z, all weights wrong by exp of it. mean: of the worst coordinate, in standard
    deviations of the true law; weights wrong by factors up to exp(+-e) move a mean by at most e.
    mode_weights: of the log odds of a mode, w / (1 - w), where they are estimated best; the weights
    of that mode are wrong by exp of it. An error of this size is detected every second time, one of
    1.3 times its size five times in six.
    """
    spread = world.sample(SPREAD_DRAWS, keyed_generator("spread")).std(0)
    w = world.weights
    tested = w > RARE
    odds = noise.weights[tested] / (w * (1 - w))[tested]
    modes = int(tested.sum())
    return {
        "log_z": critical_value(1, repetitions) * float(noise.log_z),
        "mean": critical_value(len(spread), repetitions) * float((noise.mean / spread).max()),
        "mode_weights": critical_value(modes, repetitions) * float(odds.min()),
    }


def critical_value(count: int, repetitions: int) -> float:
    """The standard errors at which the `z_score` of `count` errors is WITHIN."""
    return float(stats.t.isf(stats.norm.sf(WITHIN) / count, repetitions - 1))


def at_step_zero(runs: Sequence[Measurement]) -> tuple[Statistics, Statistics]:
    """Errors and influences by Richardson extrapolation to step zero.

    Least squares in 1, h and h^2, or in as many powers as there are numbers of steps. Extrapolating
    the influences accounts for noise that different numbers of steps have in common.
    """
    h = torch.tensor([1 / (one.steps or 1) for one in runs], dtype=torch.float64)
    powers = torch.arange(min(len(h), 3), dtype=torch.float64)
    to_zero = torch.linalg.pinv((h / h.max())[:, None] ** powers)[0]  # coefficients of the value

    def extrapolated(statistics: Sequence[Statistics]) -> Statistics:
        columns = zip(*statistics, strict=True)
        return Statistics(*(torch.tensordot(to_zero, torch.stack(c), 1) for c in columns))

    return extrapolated([one.error for one in runs]), extrapolated([one.influence for one in runs])


def order(runs: Sequence[Measurement]) -> tuple[float, float] | None:
    """p in error ~ h^p of log Z and its standard error, by weighted regression.

    None where fewer than two errors are significant, or their signs differ.
    """
    all_steps = [
        (one.steps, float(one.error.log_z), float(std_error(one.influence).log_z))
        for one in runs
        if one.steps
    ]
    rows = [row for row in all_steps if abs(row[1]) > WITHIN * row[2]]
    if len(rows) < 2 or len({error > 0 for _, error, _ in rows}) > 1:
        return None
    steps, error, noise = torch.tensor(rows, dtype=torch.float64).T
    x = -steps.log()
    y = error.abs().log()
    precision = (error / noise) ** 2
    x = x - (precision * x).sum() / precision.sum()
    scatter = (precision * x**2).sum()
    return float((precision * x * y).sum() / scatter), float(scatter**-0.5)


def z_score(error: Tensor, noise: Tensor, repetitions: int) -> float:
    """The largest of several errors as a two-sided Gaussian z-score; NaN for NaN.

    Its p-value is that of Student's t with repetitions - 1 degrees of freedom, times the number of
    errors (Bonferroni).
    """
    t = float((error.abs() / (noise + ROUNDING)).max())
    if t != t:
        return math.nan
    p = min(2 * len(error) * float(stats.t.sf(t, repetitions - 1)), 1.0)
    return float(stats.norm.isf(max(p, 1e-300) / 2))


def unless_unsettled(result: str, sizes: Sequence[Figures]) -> str:
    """The result, or "unsettled" for a pass that rests on a noisy extrapolation alone.

    That is where log Z is significantly off at the most steps, and its error there is not smaller,
    by two standard errors, than at the fewest.
    """
    first = sizes[0]
    last = sizes[-1]
    if result != "pass" or len(sizes) < 2 or not last["log_z_in_std_errors"] > WITHIN:
        return result
    nearer = abs(first["log_z_error"]) - abs(last["log_z_error"])
    noise = math.hypot(first["log_z_std_error"], last["log_z_std_error"])
    return "pass" if nearer > 2 * noise else "unsettled"


def figures(runs: Sequence[Measurement], found: Assessment, world: World) -> Figures:
    """Everything as plain numbers, for metrics.json."""
    sizes = [of_steps(one, world) for one in runs]
    return {
        "dimension": world.dimension,
        "log_z": world.log_z,
        "sizes": sizes,
        "log_z_error": float(found.error.log_z),
        "log_z_std_error": float(found.std_error.log_z),
        "log_z_in_std_errors": found.log_z,
        "mean_in_std_errors": found.mean,
        "mode_weights_in_std_errors": found.weights,
        "smallest_error_told": found.smallest,
        "repetitions": len(runs[0].influence.mean),
        "order": found.order[0] if found.order else None,
        "order_std_error": found.order[1] if found.order else None,
        "verdict": unless_unsettled(found.result, sizes),
    }


def of_steps(one: Measurement, world: World) -> dict[str, Any]:
    """The figures of one number of steps.

    Log Z, the worst coordinate of the mean, the worst mode, distance and cost.
    """
    noise = std_error(one.influence)
    axis = int(one.error.mean.abs().argmax())
    mode = int(one.error.weights.abs().argmax())
    return {
        "steps": one.steps,
        "log_z_error": float(one.error.log_z),
        "log_z_std_error": float(noise.log_z),
        "log_z_in_std_errors": z_score(one.error.log_z, noise.log_z, len(one.influence.mean)),
        "mean_error": float(one.error.mean[axis]),
        "mean_std_error": float(noise.mean[axis]),
        "mode_weight_error": float(one.error.weights[mode]),
        "mode_weight_std_error": float(noise.weights[mode]),
        "distance_over_floor": one.distance,
        "ess": one.ess,
        "evaluations": asdict(one.evaluations),
    }
