"""The default strengths of the baselines, tuned on worlds that no table uses.

    python -m recipes.experiments.strengths                # all, 15 minutes on one core
    python -m recipes.experiments.strengths mpgd fmrg_j    # some
    python -m recipes.experiments.strengths fashion        # FMRG on images

The worlds are mixtures under quadratic and linear rewards, none of them of
`steer.analytic.benchmarks`, each at a scale of 1 and of 6. A method that aims at the tilted law is
scored by its sliced Wasserstein distance to it over that of the unsteered law, which is 1 where
nothing is gained. The geometric mean over worlds and scales is printed for every strength of the
grid, and the largest of the ratios; a best value at an end of the grid is marked, since the grid
then does not bracket it. Maximisers (FMRG) are scored by the mean of log p_1(x) + scale r(x), the
log density under the tilted law up to a constant; higher is better.
"""

import math
import sys
import warnings
from collections.abc import Callable

import torch

import steer
from rewards import ClassLogProbability, Decoded, Quadratic, from_signed, load_classifier
from steer.analytic import GaussianMixture
from steer.analytic.benchmarks import Closed, Linear, numbers
from steer.guidance import Unconditional
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from steer.samplers import FlowMapRewardGuidance, Jump, Result, Sampler, training_free
from steer.samplers.divergence import Divergence
from steer.samplers.training_free.guidance_schedules import AtMost
from steer.tilt import NonFiniteReward, Tilt

STEPS = 50
PARTICLES = 200
SCALES = (1.0, 6.0)
MAP = 8  # Runge-Kutta steps of a jump


def triangle() -> tuple[GaussianMixture, Quadratic]:
    """Three modes, with a reward toward the middle of a side."""
    means = numbers([0.0, 2.5], [-2.2, -1.2], [2.2, -1.2])
    return GaussianMixture(means, 0.5, [0.4, 0.3, 0.3], steps=MAP), Quadratic(
        numbers(1.0, 0.5), 0.6
    )


def cross() -> tuple[GaussianMixture, Quadratic]:
    """Five modes, a rare one in the middle."""
    means = numbers([3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.0, 0.0])
    return GaussianMixture(means, 0.45, [0.25, 0.25, 0.25, 0.15, 0.1], steps=MAP), Quadratic(
        numbers(0.5, -1.0), 0.5
    )


def ellipse() -> tuple[GaussianMixture, Linear]:
    """A broad Gaussian beside a narrow one, under a linear reward."""
    return GaussianMixture(
        numbers([-1.0, 0.0], [1.5, 1.0]), numbers(1.1, 0.4), [0.7, 0.3], steps=MAP
    ), Linear(numbers(0.4, 0.3))


def sixteen() -> tuple[GaussianMixture, Quadratic]:
    """Two modes in sixteen dimensions."""
    side = torch.full((16,), 0.4, dtype=torch.float64)
    side[::2] *= -1
    return GaussianMixture(torch.stack((-side, side)), 0.6, [0.6, 0.4], steps=MAP), Quadratic(
        side / 2, 0.3
    )


WORLDS = (triangle, cross, ellipse, sixteen)

GRIDS: dict[
    str, tuple[Callable[[float], Sampler], tuple[float, ...]]
] = {  # per-step strengths times the steps
    "dps": (lambda s: training_free.dps(STEPS, s / STEPS), (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)),
    "lgd_mc": (lambda s: training_free.lgd_mc(STEPS, norm=AtMost(s)), (1.0, 2.0, 5.0, 10.0, 20.0)),
    "freedom": (lambda s: training_free.freedom(STEPS, s), (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)),
    "mpgd": (lambda s: training_free.mpgd(STEPS, s / STEPS), (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)),
    "ugd_factor": (lambda s: training_free.ugd(20, s), (0.25, 0.5, 1.0, 2.0)),
    "ugd_mu": (lambda s: training_free.ugd(20, mu=s), (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005)),
    "tfg_rho": (lambda s: training_free.tfg(STEPS, rho=s / STEPS), (0.0, 0.25, 0.5, 1.0, 2.0)),
    "tfg_mu": (lambda s: training_free.tfg(STEPS, mu=s / STEPS), (0.0, 0.05, 0.1, 0.2, 0.5)),
    "fmrg_j": (
        lambda s: FlowMapRewardGuidance(8, "jacobian", s),
        (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
    ),
    "fmrg_e": (
        lambda s: FlowMapRewardGuidance(8, "endpoint", s),
        (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0),
    ),
}


def ratio(result: Result, unsteered: Result, world: Closed) -> float:
    """The log of the distance to the tilted law over that of the unsteered law."""

    exact = world.sample(4 * PARTICLES, torch.Generator().manual_seed(1))
    directions = random_directions(16, world.dimension, torch.Generator().manual_seed(2))

    def distance(x: torch.Tensor) -> float:
        return float(sliced_wasserstein(x, exact, directions))

    return math.log(distance(result.x[0]) / distance(unsteered.x[0]))


def density(result: Result, unsteered: Result, world: Closed) -> float:
    """The mean of log p_1(x) + scale r(x)."""
    return float((world.flow_map.log_prob(result.x[0]) + world.reward(result.x[0])).mean())


def worlds() -> list[tuple[Closed, Result]]:
    """Every world at every scale, with unsteered samples of its model.

    The scale is in the reward.
    """
    found = []
    for law, reward in (make() for make in WORLDS):
        for scale in SCALES:
            if isinstance(reward, Quadratic):
                scaled: Quadratic | Linear = Quadratic(reward.center, scale * reward.precision)
            else:
                scaled = Linear(scale * reward.direction)
            world = Closed(law, scaled)
            found.append((world, Jump(8)(law, noise(world))))
    return found


def noise(world: Closed) -> torch.Tensor:
    return torch.randn(
        1,
        PARTICLES,
        world.dimension,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )


def scores(sampler: Sampler, judge: Callable, places: list[tuple[Closed, Result]]) -> list[float]:
    """The score in every world; infinite for samples that diverged."""
    found = []
    for world, unsteered in places:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Divergence)
                generator = torch.Generator().manual_seed(3)
                result = sampler(world.flow_map, noise(world), Tilt(world.reward), None, generator)
        except NonFiniteReward:
            found.append(math.inf)
            continue
        found.append(judge(result, unsteered, world))
    return found


FASHION = {"jacobian": (0.5, 1.0, 2.0, 4.0, 8.0), "endpoint": (0.2, 0.5, 1.0, 2.0, 4.0)}


def fashion() -> None:
    """FMRG on images without a class, with noise of its own.

    The classifiers of the tables are swapped: the score is the mean log probability of the class by
    the one that does not steer.
    """
    flow_map = Unconditional(steer.load("fashion"))
    steers, judges = (
        ClassLogProbability(load_classifier(name)) for name in ("fashion-patch", "fashion-residual")
    )
    x0 = torch.randn(10, 2, 1, 28, 28, generator=torch.Generator().manual_seed(1000))
    labels = torch.arange(10)
    for form, grid in FASHION.items():
        means = []
        for strength in grid:
            sampler = FlowMapRewardGuidance(8, form, strength)
            x = sampler(flow_map, x0, Tilt(Decoded(steers, from_signed)), labels).x.flatten(0, 1)
            with torch.no_grad():
                means.append(
                    float(judges(from_signed(x).clamp(0, 1), labels.repeat_interleave(2)).mean())
                )
            print(f"fashion, {form} {strength:6g}: {means[-1]:7.3f}", flush=True)
        say_best(f"fashion, {form}", grid, means.index(max(means)))


def say_best(name: str, grid: tuple[float, ...], best: int) -> None:
    inside = 0 < best < len(grid) - 1
    print(f"{name} best {grid[best]:g}{'' if inside else ', at an end of the grid'}", flush=True)


def main(names: list[str]) -> None:
    if names == ["fashion"]:
        fashion()
        return
    places = worlds()
    for name in names or GRIDS:
        build, grid = GRIDS[name]
        maximiser = name.startswith("fmrg")
        means = []
        for strength in grid:
            found = scores(build(strength), density if maximiser else ratio, places)
            means.append(sum(found) / len(found))
            shown = " ".join(
                f"{s:7.2f}" if maximiser else f"{math.exp(min(s, 100)):7.3g}" for s in found
            )
            figure = means[-1] if maximiser else math.exp(min(means[-1], 100))
            print(f"{name:10s} {strength:6g}: {figure:7.3f}   {shown}", flush=True)
        best = (max if maximiser else min)(range(len(grid)), key=means.__getitem__)
        say_best(name, grid, best)


if __name__ == "__main__":
    main(sys.argv[1:])
