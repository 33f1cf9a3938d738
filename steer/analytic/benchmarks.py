"""Benchmarks with known answers: an exact flow map, a reward, and the tilted law p_1 exp(r) / Z.

A method that claims to be exact must find log Z, the mean and the weight of every mode in each of
them. The tilt of a mixture by a quadratic or linear reward is again a mixture. In the plane any
bounded smooth reward is possible: its tilt is summed over a grid, with an error below any power of
the spacing for smooth densities that vanish at the edge, and sampled by rejection, accepting draws
of the mixture with probability exp(r - highest).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.analytic.gaussian_mixture import GaussianMixture, ring

__all__ = ["TUNING_WORLDS", "WORLDS", "World"]

STEPS = 16  # Runge-Kutta steps per unit of time of all maps here


@dataclass(eq=False)
class Linear:
    """r(x) = direction . x, as a matrix product (`rewards.Linear` sums in another order)."""

    direction: Tensor

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        return x @ self.direction.to(x)


@dataclass(frozen=True)
class Lobes:
    """r(x) = highest cos(k theta) (rho^2 / (1 + rho^2))^(k/2) in the plane: k lobes, smooth."""

    highest: float
    k: int

    def __call__(self, x: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        z = torch.complex(x[:, 0], x[:, 1]) / (1 + x.square().sum(1)).sqrt()
        return self.highest * (z**self.k).real


@dataclass(eq=False)
class Bump:
    """r(x) = height exp(-|x - center|^2 / (2 width^2)): bounded, and flat far away."""

    center: Tensor
    width: float
    height: float

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        square = (x - self.center.to(x)).square().sum(1)
        return self.height * torch.exp(-square / (2 * self.width**2))


class World(ABC):
    """A mixture tilted by a reward at scale 1, and the known properties of the tilted law.

    Attributes:
        flow_map: the mixture p_1.
        reward: r(x) -> (B,).
        log_z: log E[exp(r)] under p_1.
        mean: of the tilted law, (d,).
        weights: of the mixture's components under the tilted law, (K,): the means of p(k | x).
    """

    flow_map: GaussianMixture
    reward: Callable[[Tensor], Tensor]
    log_z: float
    mean: Tensor
    weights: Tensor

    @property
    def dimension(self) -> int:
        """The dimension d of a sample."""
        return len(self.mean)

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """Draw n independent samples of the tilted law."""

    def log_density(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        """Compute the log-density of the tilted law."""
        return self.flow_map.log_prob(x) + self.reward(x) - self.log_z

    def responsibilities(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Compute p(k | x), which the tilt does not change: exp(r(x)) multiplies all components."""
        return self.flow_map.responsibilities(x)


class Closed(World):
    """A mixture under a quadratic or linear reward, whose tilted law is a mixture."""

    def __init__(self, flow_map: GaussianMixture, reward: Any):
        self.flow_map = flow_map
        self.reward = reward
        self.law, log_z = flow_map.tilted(reward)
        self.log_z = float(log_z)
        self.weights = self.law.weights
        self.mean = self.law.weights @ self.law.means

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        return self.law.sample(n, generator)


class Summed(World):
    """A mixture on the line or in the plane under a bounded reward, by sums over a grid.

    Args:
        flow_map: a mixture in one dimension or two.
        reward: r(x) -> (B,), smooth.
        highest: an upper bound of the reward.
        extent, spacing: of the grid, [-extent, extent] in each dimension; the density must vanish
            at its edge, and be smooth on its spacing.
    """

    def __init__(
        self,
        flow_map: GaussianMixture,
        reward: Callable[[Tensor], Tensor],
        highest: float,
        extent: float = 8.0,
        spacing: float = 0.05,
    ):
        self.flow_map = flow_map
        self.reward = reward
        self.highest = highest
        line = torch.linspace(-extent, extent, round(2 * extent / spacing) + 1, dtype=torch.float64)
        d = flow_map.means.shape[1]
        grid = torch.cartesian_prod(*[line] * d).view(-1, d)
        log_p = flow_map.log_prob(grid) + reward(grid)
        p = log_p.softmax(0)
        self.log_z = float(log_p.logsumexp(0)) + d * math.log(float(line[1] - line[0]))
        self.mean = p @ grid
        self.weights = p @ flow_map.responsibilities(grid)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        taken: list[Tensor] = []
        while sum(map(len, taken)) < n:
            x = self.flow_map.sample(n, generator)
            u = torch.rand(n, generator=generator, dtype=x.dtype)
            taken.append(x[u.log() < self.reward(x) - self.highest])
        return torch.cat(taken)[:n]


# --- the suite ----------------------------------------------------------------------------------
def ring_of_eight() -> World:
    """Build eight equal modes, with a quadratic reward between two of them."""
    return Closed(ring(steps=STEPS), quadratic(numbers(3, 2), 0.5))


def overlapping() -> World:
    """Build two modes that overlap."""
    return Closed(
        GaussianMixture([[-0.8, 0.0], [0.8, 0.4]], 0.7, [0.6, 0.4], steps=STEPS),
        Linear(numbers(1, -0.5)),
    )


def far() -> World:
    """Build two modes 16 standard deviations apart, with a reward for the rarer one."""
    return Closed(
        GaussianMixture([[-4.0, 0.0], [4.0, 0.0]], 0.5, [0.8, 0.2], steps=STEPS),
        Linear(numbers(0.25, 0.5)),
    )


def uneven() -> World:
    """Build three unequal modes, with a quadratic reward near the rarest and narrowest."""
    means = numbers([-2, 0], [1, 1.5], [2, -1.5])
    std = numbers(0.4, 0.9, 0.3)
    return Closed(
        GaussianMixture(means, std, [0.7, 0.25, 0.05], steps=STEPS),
        quadratic(numbers(1.5, -1), 0.4),
    )


def correlated() -> World:
    """Build two narrow crossing modes, one of correlation .85 and one of -.85."""
    lean = torch.tensor(
        [[[1.0, 0.85], [0.85, 1.0]], [[1.0, -0.85], [-0.85, 1.0]]], dtype=torch.float64
    )
    base = GaussianMixture.from_covariances(
        numbers([-1.5, 0], [1.5, 0]), lean, weights=[0.5, 0.5], steps=STEPS
    )
    return Closed(base, quadratic(numbers(0.5, 1), 0.6))


def eight_dimensions(steps: int = STEPS) -> World:
    """Build three modes with full covariances in eight dimensions."""
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 8, 8, generator=g, dtype=torch.float64) / 8**0.5
    covariances = 0.3 * roots @ roots.mT + 0.2 * torch.eye(8, dtype=torch.float64)
    means = torch.randn(3, 8, generator=g, dtype=torch.float64)
    base = GaussianMixture.from_covariances(
        means, covariances, weights=[0.5, 0.3, 0.2], steps=steps
    )
    return Closed(base, Linear(0.4 * torch.randn(8, generator=g, dtype=torch.float64)))


def sixty_four_dimensions() -> World:
    """Build two modes in 64 dimensions, with a quadratic reward beyond the rarer one."""
    side = torch.full((64,), 0.25, dtype=torch.float64)
    return Closed(
        GaussianMixture(torch.stack((-side, side)), 0.6, [0.7, 0.3], steps=STEPS),
        quadratic(1.5 * side, 0.15),
    )


def lobes() -> World:
    """Build two wide modes, with a reward of one lobe at one and two beside the other."""
    base = GaussianMixture([[1.2, 0.0], [-1.2, 0.0]], 0.9, [0.4, 0.6], steps=STEPS)
    return Summed(base, Lobes(2.0, 3), 2.0)


WORLDS: dict[str, Callable[[], World]] = {
    "ring": ring_of_eight,
    "overlapping": overlapping,
    "far": far,
    "uneven": uneven,
    "correlated": correlated,
    "lobes": lobes,
    "eight": eight_dimensions,
    "sixty_four": sixty_four_dimensions,
}


# --- worlds to tune in --------------------------------------------------------------------------
def two_modes() -> GaussianMixture:
    """Build two unequal modes on the line."""
    return GaussianMixture([[-1.5], [1.0]], [[0.4], [0.5]], [0.4, 0.6], steps=TUNED)


def small_ring() -> GaussianMixture:
    """Build six equal modes on a circle of radius 2."""
    return ring(6, 2.0, 0.4, steps=TUNED)


TUNED = 4  # Runge-Kutta steps of maps to tune, whose jumps every update takes; .002 off on average
TUNING_WORLDS: dict[str, Callable[[], World]] = {
    "line-linear": lambda: Closed(two_modes(), Linear(numbers(0.8))),
    "line-quadratic": lambda: Closed(two_modes(), quadratic(numbers(1.6), 1.0)),
    "line-bump": lambda: Summed(two_modes(), Bump(numbers(1.8), 0.7, 2.0), 2.0),
    "ring-linear": lambda: Closed(small_ring(), Linear(numbers(0.6, 0.3))),
    "ring-quadratic": lambda: Closed(small_ring(), quadratic(numbers(1.5, 1.0), 0.5)),
    "ring-bump": lambda: Summed(small_ring(), Bump(numbers(1.5, 1.0), 1.0, 2.0), 2.0),
    "eight-linear": lambda: eight_dimensions(TUNED),
    "eight-quadratic": lambda: Closed(
        eight_dimensions(TUNED).flow_map,
        quadratic(torch.full((8,), 0.3, dtype=torch.float64), 0.25),
    ),
}


def numbers(*values: float | list[float]) -> Tensor:
    """Make a tensor in float64."""
    return torch.tensor(values, dtype=torch.float64)


def quadratic(center: Tensor, precision: float) -> Any:
    """Build a `rewards.Quadratic`, imported here since rewards lies above this package."""
    from rewards.quadratic import Quadratic

    return Quadratic(center, precision)
