"""The log-likelihood of a noisy measurement as a reward, for inverse problems."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from rewards.operators import LinearOperator, Operator, Step, over
from steer.conditions import field

__all__ = ["Measurement"]


class Measurement(Reward):
    """r(x) = -|A(x) - y|^2 / (2 noise^2), the log-likelihood of y = A(x) + noise e.

    It is the log-likelihood up to the constant `log_constant`. Tilting by it at scale 1 gives the
    posterior p(x | y), by Bayes' rule, with Z = p(y) up to that constant.

    The first axis of y counts measurements. A single one, (1, *measured), is that of every sample.
    Of several, cond holds the number of the one of each sample: a sampler whose prompts are the
    measurements gets cond=torch.arange(len(y)), and its map, which receives the same cond, is
    wrapped in `steer.guidance.Unconditional(flow_map)`.

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
                f"Measurement: expected a positive noise, its standard deviation, got {noise}"
            )
        self.operator = operator
        self.noise = float(noise)
        self.register_buffer("y", y)
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        seen = self.operator(x)
        y = self.measured(cond, len(x)).to(x)
        if seen.shape[1:] != y.shape[1:]:
            shape = ", ".join(map(str, seen.shape[1:]))
            raise ValueError(
                f"Measurement: expected y of shape (n, {shape}), got {tuple(self.y.shape)}: "
                "measure images of the same shape, y = operator.observe(x, noise)"
            )
        return -(seen - y).square().flatten(1).sum(1) / (2 * self.noise**2)

    def measured(self, cond: Cond, samples: int) -> Float[Tensor, "#b *measured"]:
        """Return the measurement of each sample. Raises ValueError if cond does not name it."""
        if len(self.y) == 1:
            return self.y
        cond = field(cond, "labels")
        if not isinstance(cond, Tensor) or cond.shape != (samples,) or cond.is_floating_point():
            raise ValueError(
                "Measurement: expected the number of a measurement for each sample in cond, "
                f"0 to {len(self.y) - 1}: give cond=torch.arange(len(y)), one per prompt"
            )
        if (wrong := cond[(cond < 0) | (cond >= len(self.y))]).numel():
            raise ValueError(
                f"Measurement: expected numbers 0 to {len(self.y) - 1} in cond, got {int(wrong[0])}"
            )
        return self.y[cond.to(self.y.device)]

    @property
    def log_constant(self) -> float:
        """-m/2 log(2 pi noise^2) for measurements of m numbers.

        log p(y | x) = r(x) + log_constant, and log p(y) = log Z + log_constant.
        """
        return -0.5 * self.y[0].numel() * math.log(2 * math.pi * self.noise**2)

    def prox(
        self, x: Float[Tensor, "b *shape"], variance: Step, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Compute the proximal point argmax_z r(z) - |z - x|^2 / (2 variance), for linear A.

        It is exact, and the posterior mean of the prior N(x, variance I). Raises ValueError for
        other operators.
        """
        y = self.measured(cond, len(x)).to(x)
        return linear(self.operator, "prox").prox(x, y, over(variance, x).flatten() / self.noise**2)

    def signed(self) -> "Measurement":
        """Convert to the same reward of images in [-1, 1], the space of most maps, for linear A.

        A (x + 1) / 2 - y = (A x - (2 y - A 1)) / 2: the same operator, with measurements 2 y - A 1
        and twice the noise. It equals `rewards.Decoded(measurement, rewards.from_signed)`, and
        keeps `prox`. Raises ValueError for other operators.
        """
        operator = linear(self.operator, "signed")
        one = operator(torch.ones_like(operator.adjoint(self.y[:1])))
        return Measurement(operator, 2 * self.y - one, 2 * self.noise)

    def extra_repr(self) -> str:
        return f"y={tuple(self.y.shape)}, noise={self.noise:g}"


def linear(operator: Operator, wanted: str) -> LinearOperator:
    """Return the operator if it is linear. Raises ValueError if not, naming the method `wanted`."""
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            f"Measurement.{wanted}: expected a linear operator, got {type(operator).__name__}: "
            "take gradients of rewards.Decoded(measurement, rewards.from_signed) instead"
        )
    return operator
