"""Runge-Kutta steps of order 1, 2 and 4 for dx/dt = velocity(x, t), times per sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from steer.interpolant import expand

Field = Callable[[Tensor, Tensor], Tensor]  # (x (B, *shape), t (B,)) -> (B, *shape)


class Solver(ABC):
    """A one-step method for dx/dt = velocity(x, t).

    Attributes:
        order: the power of h in the global error.
        stages: evaluations of the velocity in a step.
    """

    order: int
    stages: int

    @abstractmethod
    def step(
        self,
        velocity: Field,
        x: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        h: Float[Tensor, "b"],
    ) -> Float[Tensor, "b *shape"]:
        """Advance x from t to t + h; h may be negative."""


class Euler(Solver):
    """The explicit Euler method, x + h v: order 1, one evaluation, at t."""

    order = 1
    stages = 1

    def step(self, velocity: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        return x + expand(h, x) * velocity(x, t)


class Heun(Solver):
    """The trapezoidal rule with an Euler predictor: order 2, two evaluations."""

    order = 2
    stages = 2

    def step(self, velocity: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        dt = expand(h, x)
        k1 = velocity(x, t)
        k2 = velocity(x + dt * k1, t + h)
        return x + dt * (k1 + k2) / 2


class Rk4(Solver):
    """The classical fourth-order method: four evaluations."""

    order = 4
    stages = 4

    def step(self, velocity: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        dt = expand(h, x)
        k1 = velocity(x, t)
        k2 = velocity(x + dt * k1 / 2, t + h / 2)
        k3 = velocity(x + dt * k2 / 2, t + h / 2)
        k4 = velocity(x + dt * k3, t + h)
        return x + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6
