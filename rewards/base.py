"""What a reward is: a module that looks at samples and says, with one number each, how much it
likes them.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from steer.conditions import Cond, condition_argument, name_of

__all__ = ["FunctionReward", "Reward", "as_reward"]

R = TypeVar("R", bound="Reward")


class Reward(nn.Module, ABC):
    """r(x, cond), one number per sample; higher is better.

    Every reward keeps three laws, which the tests hold every class of this package to. The reward
    of a sample never depends on its batch mates. A `differentiable` reward has a finite gradient in
    x. A reward is a judge: it stays in evaluation mode even when the module that owns it is put in
    training mode.

    A reward without a gradient says so in `differentiable`, and gives the reason and the way out in
    `why_not_differentiable` and `instead`, for the gradient methods that refuse it.
    """

    differentiable: bool = True
    why_not_differentiable: str = ""
    instead: str = ""

    @abstractmethod
    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        """The reward of each sample.

        Args:
            x: the samples: images in [0, 1] of shape (b, c, h, w), or points of the plane of shape
                (b, 2).
            cond: what each sample was asked to be, one entry per sample, for rewards that judge it.
        """

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        """The named parts of this reward, for logs and reports; a reward in one piece has none."""
        return {}

    def train(self: R, mode: bool = True) -> R:
        """Stay in evaluation mode, whatever `mode` asks: dropout or batch statistics would mix up
        batch mates.
        """
        return super().train(False)

    def freeze(self: R) -> R:
        """Fix every weight held by this reward and put it in evaluation mode; constructors end with
        it.
        """
        return self.requires_grad_(False).eval()


class FunctionReward(Reward):
    """A plain function `f(x)` or `f(x, cond)` as a reward.

    The function gets `cond` if it has an argument of that name, or a second one of CONDITIONS. What
    it returns is checked at each call, and what it raises comes out as one line that names it.
    Networks in it are frozen.

    Args:
        function: samples (b, *shape) -> one number per sample (b,), higher is better.
        differentiable: False keeps gradient methods away, for a function that leaves torch or
            counts things.

    Raises:
        ValueError: at construction, if the function cannot be called as f(x) or f(x, cond); when
            called, if it raises or returns anything but a floating point tensor of shape (b,).
    """

    why_not_differentiable = "This function was declared to have no gradient."
    instead = "Use a method that only compares rewards, such as best-of-n, or write the function in torch."

    def __init__(self, function: Callable[..., Any], differentiable: bool = True) -> None:
        super().__init__()
        self.function = function
        self.name = name_of(function)
        self.differentiable = differentiable
        self.cond_argument = condition_argument(function)
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        given = {self.cond_argument: cond} if self.cond_argument else {}
        try:
            value = self.function(x, **given)
        except Exception as error:
            raise ValueError(
                f"reward '{self.name}' raised {one_line(error)}: mend the function"
            ) from error
        self.check(value, len(x))
        return value

    def check(self, value: Any, samples: int) -> None:
        expected = f"reward '{self.name}': expected a tensor of shape ({samples},), one number per sample, got"
        if not isinstance(value, Tensor):
            raise ValueError(f"{expected} {type(value).__name__}: return a torch tensor")
        if value.shape != (samples,):
            raise ValueError(
                f"{expected} shape {tuple(value.shape)}: average what is left over, as in .flatten(1).mean(1)"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{expected} {value.dtype}: return floating point numbers, as with .float()"
            )

    def extra_repr(self) -> str:
        return f"{self.name}, differentiable={self.differentiable}"


def as_reward(reward: object) -> Reward:
    """A Reward as it is; any other callable wrapped in a FunctionReward.

    Raises:
        ValueError: if it is a class, or cannot be called.
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, type):
        raise ValueError(
            f"expected a reward, got the class {reward.__name__}: build one, as in {reward.__name__}(...)"
        )
    if not callable(reward):
        raise ValueError(
            f"expected a reward or a function of (x) or (x, cond), got {type(reward).__name__}: give one"
        )
    return FunctionReward(reward)


def one_line(error: Exception) -> str:
    """Type and message of an error, and the deepest line of the user's own code that it came from,
    on one line.
    """
    message = " ".join(str(error).split())
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)[1:]
        if "site-packages" not in f.filename
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"
