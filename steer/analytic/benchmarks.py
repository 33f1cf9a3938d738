"""Worlds where the truth is known: a flow map with exact velocity, a reward, and the whole law p_1
exp(r) / Z.

A method that claims to be exact must find log Z, the mean and the weight of every mode in each of
them. A mixture under a quadratic or linear reward is again a mixture. In the plane any other
bounded reward will do: its law is summed over a grid, which for smooth densities that vanish at the
edge errs less than any power of the spacing, and its draws are those of the mixture, taken with
probability exp(r - highest).
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

__all__ = ["WORLDS", "World"]

STEPS = 16  # Runge-Kutta steps per unit of time of the worlds' maps


@dataclass(eq=False)
class Linear:
    """r(x) = direction . x"""

    direction: Tensor

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        return x @ self.direction.to(x)


@dataclass(frozen=True)
class Lobes:
    """r(x) = highest cos(k theta) (rho^2 / (1 + rho^2))^(k/2) in the plane: k lobes, smooth at the
    origin.
    """

    highest: float
    k: int

    def __call__(self, x: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        z = torch.complex(x[:, 0], x[:, 1]) / (1 + x.square().sum(1)).sqrt()
        return self.highest * (z**self.k).real


class World(ABC):
    """A mixture tilted by a reward at scale 1, and what is known of the tilted law.

    Attributes:
        flow_map: the mixture p_1.
        reward: r(x) -> (B,).
        log_z: log E[exp(r)] under p_1.
        mean: of the tilted law, (d,).
        weights: of each of the mixture's components under the tilted law, (K,): the mean of p(k |
            x).
    """

    flow_map: GaussianMixture
    reward: Callable[[Tensor], Tensor]
    log_z: float
    mean: Tensor
    weights: Tensor

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.mean)

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """n independent draws from the tilted law."""

    def responsibilities(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """p(k | x), which the tilt leaves as it is: exp(r(x)) multiplies all components alike."""
        return self.flow_map.responsibilities(x)


class Closed(World):
    """A quadratic or linear reward: the tilted law is a mixture."""

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
    """Any reward that does not exceed `highest`, in the plane: sums over a grid on [-extent,
    extent]^2.

    Args:
        flow_map: a mixture in the plane.
        reward: r(x) -> (B,), smooth.
        highest: a bound of the reward from above.
        extent, spacing: of the grid; the density must vanish at its edge, and be smooth on its
            spacing.
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
        grid = torch.cartesian_prod(line, line)
        log_p = flow_map.log_prob(grid) + reward(grid)
        p = log_p.softmax(0)
        self.log_z = float(log_p.logsumexp(0)) + 2 * math.log(float(line[1] - line[0]))
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
    """Eight equal modes, the reward a pull to a place between two of them."""
    return Closed(ring(steps=STEPS), quadratic(numbers(3, 2), 0.5))


def overlapping() -> World:
    """Two modes that are nearly one."""
    return Closed(
        GaussianMixture([[-0.8, 0.0], [0.8, 0.4]], 0.7, [0.6, 0.4], steps=STEPS),
        Linear(numbers(1, -0.5)),
    )


def far() -> World:
    """Two modes sixteen standard deviations apart, of which the reward prefers the rare one."""
    return Closed(
        GaussianMixture([[-4.0, 0.0], [4.0, 0.0]], 0.5, [0.8, 0.2], steps=STEPS),
        Linear(numbers(0.25, 0.5)),
    )


def uneven() -> World:
    """Three modes of unequal weights and widths, the reward a pull to the rarest and narrowest."""
    means = numbers([-2, 0], [1, 1.5], [2, -1.5])
    std = numbers(0.4, 0.9, 0.3)
    return Closed(
        GaussianMixture(means, std, [0.7, 0.25, 0.05], steps=STEPS),
        quadratic(numbers(1.5, -1), 0.4),
    )


def correlated() -> World:
    """Two narrow modes that cross, one leaning left and one right."""
    lean = torch.tensor(
        [[[1.0, 0.85], [0.85, 1.0]], [[1.0, -0.85], [-0.85, 1.0]]], dtype=torch.float64
    )
    base = GaussianMixture.from_covariances(
        numbers([-1.5, 0], [1.5, 0]), lean, weights=[0.5, 0.5], steps=STEPS
    )
    return Closed(base, quadratic(numbers(0.5, 1), 0.6))


def eight_dimensions() -> World:
    """Three modes with full covariances of their own in eight dimensions."""
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 8, 8, generator=g, dtype=torch.float64) / 8**0.5
    covariances = 0.3 * roots @ roots.mT + 0.2 * torch.eye(8, dtype=torch.float64)
    means = torch.randn(3, 8, generator=g, dtype=torch.float64)
    base = GaussianMixture.from_covariances(
        means, covariances, weights=[0.5, 0.3, 0.2], steps=STEPS
    )
    return Closed(base, Linear(0.4 * torch.randn(8, generator=g, dtype=torch.float64)))


def sixty_four_dimensions() -> World:
    """Two modes in sixty-four dimensions, under a pull to a place beyond the rarer one."""
    side = torch.full((64,), 0.25, dtype=torch.float64)
    return Closed(
        GaussianMixture(torch.stack((-side, side)), 0.6, [0.7, 0.3], steps=STEPS),
        quadratic(1.5 * side, 0.15),
    )


def lobes() -> World:
    """Two wide modes about the origin, under a reward with a lobe on the one and two beside the
    other.
    """
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


def numbers(*values: float | list[float]) -> Tensor:
    """A tensor in float64."""
    return torch.tensor(values, dtype=torch.float64)


def quadratic(center: Tensor, precision: float) -> Any:
    """Build the reward -precision/2 |x - center|^2 of `rewards`, which lies above this package."""
    from rewards.quadratic import Quadratic

    return Quadratic(center, precision)
