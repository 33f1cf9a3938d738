"""A measurement as a reward: how likely it is that this image was the one measured."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from rewards.operators import LinearOperator, Operator, Step, over

__all__ = ["Measurement"]


class Measurement(Reward):
    """r(x) = -|A(x) - y|^2 / (2 noise^2), the log likelihood of y = A(x) + noise e but for a
    constant (`log_constant`).

    A map tilted by it with scale 1 samples the posterior p(x | y): Bayes' rule, with p(y) for Z up
    to that constant.

    y has a leading axis for the measurements. A single one, (1, *measured), holds for every sample.
    Of several, cond names one for each sample, by its number; so a sampler whose prompts are the
    measurements gets cond=torch.arange(len(y)), and the map, which is given the same cond, goes in
    as `steer.guidance.Unconditional(flow_map)`.

    Args:
        operator: A, of `rewards.operators`, or any other module; frozen in place.
        y: what was measured, (n, *measured), as from `operator.observe`.
        noise: standard deviation of the noise in each number of y, in units of y.

    Raises:
        ValueError: if noise is not positive; when called, if y is not of the shape of A(x), or if
            cond does not name one of several measurements for each sample.
    """

    y: Tensor

    def __init__(self, operator: Operator, y: Float[Tensor, "n *measured"], noise: float) -> None:
        super().__init__()
        if not 0 < noise < math.inf:
            raise ValueError(
                f"Measurement: expected a positive noise level, got {noise}: give its standard deviation"
            )
        self.operator = operator
        self.noise = float(noise)
        self.register_buffer("y", y)
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        seen = self.operator(x)
        y = self.measured(cond, len(x)).to(x)
        if seen.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"Measurement: expected y of shape (n, {', '.join(map(str, seen.shape[1:]))}), got "
                f"{tuple(self.y.shape)}: measure images of the same shape, y = operator.observe(x, noise)"
            )
        return -(seen - y).square().flatten(1).sum(1) / (2 * self.noise**2)

    def measured(self, cond: Cond, samples: int) -> Float[Tensor, "#b *measured"]:
        """The measurement of each sample."""
        if len(self.y) == 1:
            return self.y
        if not isinstance(cond, Tensor) or cond.shape != (samples,) or cond.is_floating_point():
            raise ValueError(
                f"Measurement: expected the number of a measurement for each sample in cond, 0 to {len(self.y) - 1}: "
                "give cond=torch.arange(len(y)), one per prompt"
            )
        if (wrong := cond[(cond < 0) | (cond >= len(self.y))]).numel():
            raise ValueError(
                f"Measurement: expected numbers 0 to {len(self.y) - 1} in cond, got {int(wrong[0])}: there is no such y"
            )
        return self.y[cond.to(self.y.device)]

    @property
    def log_constant(self) -> float:
        """-m/2 log(2 pi noise^2), m the numbers in a measurement: log p(y | x) = r(x) + this, log
        p(y) = log Z + this.
        """
        return -0.5 * self.y[0].numel() * math.log(2 * math.pi * self.noise**2)

    def prox(
        self, x: Float[Tensor, "b *shape"], variance: Step, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """argmax_z r(z) - |z - x|^2 / (2 variance): the posterior mean of N(x, variance I),
        exactly. For linear A only.
        """
        y = self.measured(cond, len(x)).to(x)
        return linear(self.operator, "prox").prox(x, y, over(variance, x).flatten() / self.noise**2)

    def signed(self) -> "Measurement":
        """The same reward, value for value, of images in [-1, 1], the space of most maps. For
        linear A only.

        A (x + 1) / 2 - y = (A x - (2 y - A 1)) / 2: the same operator, with 2 y - A 1 measured to
        within 2 noise. It equals `rewards.Decoded(measurement, rewards.from_signed)`, and keeps
        `prox`.
        """
        operator = linear(self.operator, "signed")
        one = operator(torch.ones_like(operator.adjoint(self.y[:1])))
        return Measurement(operator, 2 * self.y - one, 2 * self.noise)

    def extra_repr(self) -> str:
        return f"y={tuple(self.y.shape)}, noise={self.noise:g}"


def linear(operator: Operator, wanted: str) -> LinearOperator:
    """The operator, if it is linear."""
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            f"Measurement.{wanted}: expected a linear operator, got {type(operator).__name__}: take gradients of "
            "rewards.Decoded(measurement, rewards.from_signed) instead"
        )
    return operator
