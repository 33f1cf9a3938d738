"""A reward on a device or in a precision of its own."""

from collections.abc import Callable
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
    is done to the module that owns it.

    Args:
        reward: r; moved.
        device: where it is computed, such as cuda:1.
        dtype: the precision of its weights and of the samples it receives; theirs by default.
            Values return in the precision of the samples.

    Raises:
        ValueError: if there is no such device.
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        device: str | torch.device,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> None:
        super().__init__()
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"OnDevice: device {str(device)!r} cannot be used ({reason}): give another one"
            ) from error
        self.dtype = None if dtype is None else getattr(torch, dtype)
        self.reward = as_reward(reward).to(self.device, self.dtype)
        self.inherit([self.reward])

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        return self.reward(x.to(self.device, self.dtype), to(cond, self.device)).to(x)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        found = self.reward.terms(x.to(self.device, self.dtype), to(cond, self.device))
        return {name: value.to(x) for name, value in found.items()}

    def _apply(self, fn: Any, recurse: bool = True) -> "OnDevice":
        """Stay where it is: a precision is taken over, if none was set, and a device is not."""
        super()._apply(fn, recurse)
        self.reward.to(self.device, self.dtype)
        return self

    def extra_repr(self) -> str:
        return f"{self.device}"
