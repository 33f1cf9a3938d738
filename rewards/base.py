"""The base class of rewards, one number per sample, and plain functions as rewards."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from steer.conditions import Cond, condition_argument, given_to, name_of

__all__ = ["FunctionReward", "Reward", "as_reward"]

R = TypeVar("R", bound="Reward")


class Reward(nn.Module, ABC):
    """A reward r(x, cond), one number per sample; higher is better.

    The tests check three properties for every class of this package: the reward of a sample does
    not depend on the rest of its batch (where it is `independent`), a `differentiable` reward has a
    finite gradient in x, and a reward stays in evaluation mode even when the module that owns it is
    put in training mode.

    Attributes:
        differentiable: whether gradient methods may use it.
        why_not_differentiable: the reason, in their error message, if they may not.
        instead: what to use in that case.
        independent: whether a sample's reward is a function of that sample and its condition alone;
            False for rewards of groups.
    """

    differentiable: bool = True
    why_not_differentiable: str = ""
    instead: str = ""
    independent: bool = True

    @abstractmethod
    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        """Compute the reward of each sample.

        Args:
            x: the samples: images in [0, 1] of shape (b, c, h, w), or points of the plane of shape
                (b, 2).
            cond: the condition of each sample, one entry each, for rewards that depend on it.
        """

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        """Compute the named parts of this reward, for logs and reports; none by default."""
        return {}

    def train(self: R, mode: bool = True) -> R:
        """Stay in evaluation mode: dropout or batch statistics would couple samples of a batch."""
        return super().train(False)

    def freeze(self: R) -> R:
        """Freeze all weights and switch to evaluation mode; the last call of a constructor."""
        return self.requires_grad_(False).eval()


class FunctionReward(Reward):
    """A plain function `f(x)` or `f(x, cond)` as a reward.

    The function receives the condition if it has an argument for it (see
    `steer.conditions.condition_argument`). Its result is checked at each call, and an exception
    inside it is raised again in one line that names it. A module is frozen.

    Args:
        function: samples (b, *shape) -> one number per sample (b,), higher is better.
        differentiable: False for a function whose gradient is lost or useless, which gradient
            methods then refuse.

    Raises:
        ValueError: at construction, if the function cannot be called as f(x) or f(x, cond); when
            called, if it raises or returns anything but a floating point tensor of shape (b,).
    """

    why_not_differentiable = "This function was declared to have no gradient."
    instead = "Use a method without gradients, such as best-of-n, or write the function in torch."

    def __init__(self, function: Callable[..., Any], differentiable: bool = True) -> None:
        super().__init__()
        self.function = function
        self.name = name_of(function)
        self.differentiable = differentiable
        self.cond_argument = condition_argument(function)
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        try:
            value = self.function(x, **given_to(self.cond_argument, cond))
        except Exception as error:
            raise ValueError(
                f"reward '{self.name}' raised {one_line(error)}: fix the function"
            ) from error
        self.check(value, len(x))
        return value

    def check(self, value: Any, samples: int) -> None:
        """Raise ValueError unless the value is one floating point number per sample."""
        shape = f"({samples},)"
        expected = (
            f"reward '{self.name}': expected a tensor of shape {shape}, one number per sample, got"
        )
        if not isinstance(value, Tensor):
            raise ValueError(f"{expected} {type(value).__name__}: return a torch tensor")
        if value.shape != (samples,):
            raise ValueError(
                f"{expected} shape {tuple(value.shape)}: reduce the rest, as in .flatten(1).mean(1)"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{expected} {value.dtype}: return floating point numbers, as with .float()"
            )

    def extra_repr(self) -> str:
        return f"{self.name}, differentiable={self.differentiable}"


def as_reward(reward: object) -> Reward:
    """Return a Reward as it is, and any other callable as a FunctionReward.

    Raises:
        ValueError: if it is a class, or cannot be called.
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, type):
        raise ValueError(
            f"expected a reward, got the class {reward.__name__}: build one, {reward.__name__}(...)"
        )
    if not callable(reward):
        raise ValueError(
            f"expected a reward or a function of (x) or (x, cond), got {type(reward).__name__}"
        )
    return FunctionReward(reward)


def one_line(error: Exception) -> str:
    """Describe an error in one line: type, message, and the deepest line of the user's code."""
    message = " ".join(str(error).split())
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)[1:]
        if "site-packages" not in f.filename
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"
