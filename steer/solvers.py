"""One step of dx/dt = velocity(x, t), by Runge-Kutta methods of order 1, 2 and 4, with a time and
step per sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from steer.interpolant import expand

Field = Callable[[Tensor, Tensor], Tensor]  # (x (B, *shape), t (B,)) -> (B, *shape)


class Solver(ABC):
    """step(velocity, x, t, h) -> x at t + h; `order` is the power of h in the global error,
    `stages` its evaluations.
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
        """x advanced from t to t + h; h may be negative."""


class Euler(Solver):
    """x + h v: order 1, one evaluation, none of them at t + h."""

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
