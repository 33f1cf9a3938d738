"""A reward on a device or in a precision of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward, as_reward
from rewards.compose import Composite
from steer.conditions import to

__all__ = ["OnDevice"]


class OnDevice(Composite):
    """r(x) computed on another device, such as a second GPU that holds a large reward.

    Samples go there and values come back; gradients pass both ways. The reward stays there whatever
    is done to the module that owns it, or waits at `rest` between its calls, so that a model and a
    large reward share one GPU in turn. A graph keeps the weights on the device until it is freed.

    Args:
        reward: r; moved.
        device: where it is computed, such as cuda:1.
        dtype: the precision of its weights and of the samples it receives; theirs by default.
            Values return in the precision of the samples.
        rest: where the reward waits while it is not asked, such as cpu; on its device by default.

    Raises:
        ValueError: if there is no such device.
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        device: str | torch.device,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        rest: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        self.device = usable(device, "device")
        self.rest = self.device if rest is None else usable(rest, "rest")
        self.dtype = None if dtype is None else getattr(torch, dtype)
        self.reward = as_reward(reward).to(self.rest, self.dtype)
        self.inherit([self.reward])

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        with self.in_use():
            return self.reward(x.to(self.device, self.dtype), to(cond, self.device)).to(x)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        with self.in_use():
            found = self.reward.terms(x.to(self.device, self.dtype), to(cond, self.device))
        return {name: value.to(x) for name, value in found.items()}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The reward is on its device inside the `with`, and at rest after it."""
        if self.rest == self.device:
            yield
            return
        try:
            self.reward.to(self.device)
            yield
        finally:
            self.reward.to(self.rest)

    def _apply(self, fn: Any, recurse: bool = True) -> "OnDevice":
        """Stay where it is: a precision is taken over, if none was set, and a device is not."""
        super()._apply(fn, recurse)
        self.reward.to(self.rest, self.dtype)
        return self

    def extra_repr(self) -> str:
        return f"{self.device}" if self.rest == self.device else f"{self.device}, rest={self.rest}"


def usable(device: str | torch.device, argument: str) -> torch.device:
    """The device of that name. Raises ValueError if there is none."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"OnDevice: {argument} {str(device)!r} cannot be used ({reason}): give another one"
        ) from error
