"""What several step sizes of one sampler in one world add up to: the errors at step zero, the
order, the verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from recipes.evaluation.metrics import Figures
from recipes.verification.measurement import Held, Numbers, std_error
from steer.analytic.benchmarks import World
from steer.data.stream import keyed_generator
from steer.samplers.base import Claim

WITHIN = 3.0  # standard errors
LIMITS = {
    "log_z": 0.02,
    "mean": 0.05,
    "mode_weights": 0.05,
}  # the smallest errors that a pass must be able to tell
SURE = 6.0  # standard errors at which no further repetitions are asked for
SPREAD_DRAWS = 4096  # of the true law, for its standard deviations
RARE = 0.01  # a mode of less weight gets too few samples for a standard error, and is not judged
ROUNDING = 1e-6  # of the truth: what the worlds' quadratures and the suite's numbers may be off by


@dataclass(frozen=True)
class Judgement:
    """What a world says of a sampler.

    Attributes:
        error, std_error: at step zero.
        log_z, mean, weights: how many standard errors those errors are, as `surprise` counts; log_z
            NaN without one.
        order: of convergence of log Z, and its standard error; None below the noise.
        smallest: the smallest errors that would be told at this size, of "log_z", "mean" and
            "mode_weights": see `smallest`.
        verdict: "pass", "fail" or "inconclusive" on an exact method, "none" on any other.
    """

    error: Numbers
    std_error: Numbers
    log_z: float
    mean: float
    weights: float
    order: tuple[float, float] | None
    smallest: dict[str, float]
    verdict: str


def judge(held: Sequence[Held], world: World, claim: Claim) -> Judgement:
    """All sizes of a sampler in one world."""
    error, influence = at_step_zero(held)
    noise, repetitions, judged = std_error(influence), len(influence.mean), world.weights > RARE
    log_z, mean = (surprise(e, s, repetitions) for e, s in zip(error[:2], noise[:2], strict=True))
    weights = surprise(error.weights[judged], noise.weights[judged], repetitions)
    told, verdict = smallest(noise, world, repetitions), "none"
    if claim == "exact":
        off = any(value > WITHIN for value in (log_z, mean, weights))
        vague = any(
            told[name] > limit for name, limit in LIMITS.items()
        )  # not of log Z where there is none: NaN
        verdict = "fail" if off else "inconclusive" if vague else "pass"
    return Judgement(error, noise, log_z, mean, weights, order(held), told, verdict)


def enough(held: Sequence[Held], world: World) -> bool:
    """Whether further repetitions would change nothing: all that must be told can be, or an error
    is beyond doubt.
    """
    found = judge(held, world, "exact")
    beyond = (
        max(value for value in (found.log_z, found.mean, found.weights) if value == value) > SURE
    )
    return beyond or not any(found.smallest[name] > limit for name, limit in LIMITS.items())


def smallest(noise: Numbers, world: World, repetitions: int) -> dict[str, float]:
    """The smallest errors that lie beyond WITHIN standard errors, each as the factor on the weights
    that it stands for.

    log_z: of log Z: all weights wrong by exp of it. mean: of the worst coordinate, in standard
    deviations of the true law,
    by which weights wrong by factors up to exp(+-e) move a mean by at most e. mode_weights: of the
    logarithm of a mode's odds, w / (1 - w), in the mode where it is told best: the weights of that
    mode wrong by exp of it. An error equal to it is told every second time, one of 1.3 times its
    size five times in six.
    """
    spread = world.sample(SPREAD_DRAWS, keyed_generator("spread")).std(0)
    w, judged = world.weights, world.weights > RARE
    odds = noise.weights[judged] / (w * (1 - w))[judged]
    return {
        "log_z": beyond(1, repetitions) * float(noise.log_z),
        "mean": beyond(len(spread), repetitions) * float((noise.mean / spread).max()),
        "mode_weights": beyond(int(judged.sum()), repetitions) * float(odds.min()),
    }


def beyond(count: int, repetitions: int) -> float:
    """The standard errors at which `surprise` says WITHIN, of the largest of so many errors."""
    return float(stats.t.isf(stats.norm.sf(WITHIN) / count, repetitions - 1))


def at_step_zero(held: Sequence[Held]) -> tuple[Numbers, Numbers]:
    """Richardson's extrapolation: least squares in 1, h and h^2, or as many powers as there are
    sizes.

    The influences are extrapolated likewise, so that what the sizes have in common is accounted
    for.
    """
    h = torch.tensor([1 / (one.steps or 1) for one in held], dtype=torch.float64)
    powers = torch.arange(min(len(h), 3), dtype=torch.float64)
    share = torch.linalg.pinv((h / h.max())[:, None] ** powers)[
        0
    ]  # of each size in the value at h = 0
    sums = [
        Numbers(
            *(torch.tensordot(share, torch.stack(column), 1) for column in zip(*rows, strict=True))
        )
        for rows in ([one.error for one in held], [one.influence for one in held])
    ]
    return sums[0], sums[1]


def order(held: Sequence[Held]) -> tuple[float, float] | None:
    """p in error ~ h^p of log Z and its standard error, by a line through the sizes that stand out
    of the noise.
    """
    all_sizes = [
        (one.steps, float(one.error.log_z), float(std_error(one.influence).log_z))
        for one in held
        if one.steps
    ]
    rows = [row for row in all_sizes if abs(row[1]) > WITHIN * row[2]]
    if len(rows) < 2 or len({error > 0 for _, error, _ in rows}) > 1:
        return None
    steps, error, noise = torch.tensor(rows, dtype=torch.float64).T
    x, y, precision = -steps.log(), error.abs().log(), (error / noise) ** 2
    x = x - (precision * x).sum() / precision.sum()
    scatter = (precision * x**2).sum()
    return float((precision * x * y).sum() / scatter), float(scatter**-0.5)


def surprise(error: Tensor, noise: Tensor, repetitions: int) -> float:
    """The largest of some errors in standard errors, put as if it were of one Gaussian number; NaN
    for NaN.

    That is: a Gaussian goes as far with the chance that a Student t of repetitions - 1 degrees of
    freedom goes as far as
    the largest, times the number of errors.
    """
    t = float((error.abs() / (noise + ROUNDING)).max())
    chance = min(2 * len(error) * float(stats.t.sf(t, repetitions - 1)), 1.0)
    return float(stats.norm.isf(max(chance, 1e-300) / 2)) if t == t else math.nan


def settled(verdict: str, sizes: Sequence[Figures]) -> str:
    """The verdict, or "unsettled" where a pass is only that of a noisy extrapolation: log Z is
    surely off at the most steps, and no nearer there, by two standard errors, than at the fewest.
    """
    first, last = sizes[0], sizes[-1]
    if verdict != "pass" or len(sizes) < 2 or not last["log_z_in_std_errors"] > WITHIN:
        return verdict
    nearer = abs(first["log_z_error"]) - abs(last["log_z_error"])
    noise = math.hypot(first["log_z_std_error"], last["log_z_std_error"])
    return "pass" if nearer > 2 * noise else "unsettled"


def figures(held: Sequence[Held], found: Judgement, world: World) -> Figures:
    """All of it in plain numbers."""
    sizes = [of_size(one, world) for one in held]
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
        "repetitions": len(held[0].influence.mean),
        "order": found.order[0] if found.order else None,
        "order_std_error": found.order[1] if found.order else None,
        "verdict": settled(found.verdict, sizes),
    }


def of_size(one: Held, world: World) -> dict[str, Any]:
    """One number of steps: log Z, the worst coordinate of the mean, the worst mode, distance and
    cost.
    """
    noise = std_error(one.influence)
    axis, mode = int(one.error.mean.abs().argmax()), int(one.error.weights.abs().argmax())
    return {
        "steps": one.steps,
        "log_z_error": float(one.error.log_z),
        "log_z_std_error": float(noise.log_z),
        "log_z_in_std_errors": surprise(one.error.log_z, noise.log_z, len(one.influence.mean)),
        "mean_error": float(one.error.mean[axis]),
        "mean_std_error": float(noise.mean[axis]),
        "mode_weight_error": float(one.error.weights[mode]),
        "mode_weight_std_error": float(noise.weights[mode]),
        "distance_over_floor": one.distance,
        "ess": one.ess,
        "evaluations": asdict(one.evaluations),
    }
