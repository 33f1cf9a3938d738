"""A reward chosen by the condition of each sample."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewards.base import Cond, Reward, as_reward
from rewards.compose import Composite
from steer.conditions import field, pick

__all__ = ["Switch"]


class Switch(Composite):
    """r(x, c) = r_c(x, c): each prompt of a batch with its own reward.

    Args:
        rewards: r_c by condition: a class label (or its number as a string, as in a config), or a
            text.
        otherwise: the reward of all other conditions; by default they raise an error.

    Raises:
        ValueError: without a reward; when called, for a condition that has none, or without
            conditions.
    """

    def __init__(
        self,
        rewards: Mapping[int | str, Reward | Callable[..., Tensor]],
        otherwise: Reward | Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not rewards:
            raise ValueError(
                "Switch: expected at least one reward, got none: pass {condition: reward}"
            )
        self.keys = [str(key) for key in rewards]
        if twice := {key for key in self.keys if self.keys.count(key) > 1}:
            raise ValueError(
                f"Switch: expected each condition once, got {min(twice)!r} as int and str: drop one"
            )
        parts = [as_reward(reward) for reward in rewards.values()]
        if otherwise is not None:
            parts.append(as_reward(otherwise))
        self.parts = nn.ModuleList(parts)
        self.open = otherwise is not None
        self.inherit(parts)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        places = torch.tensor(self.places(x, cond), device=x.device)
        order = []
        values = []
        for place in places.unique().tolist():
            indices = (places == place).nonzero()[:, 0]
            order.append(indices)
            values.append(self.parts[place](x[indices], pick(cond, indices)))
        return torch.cat(values)[torch.cat(order).argsort()]

    def places(self, x: Float[Tensor, "b *shape"], cond: Cond) -> list[int]:
        """Find the index of the part for each sample. Raises ValueError where there is none."""
        cond = field(cond, "texts", "labels")
        if cond is None or (
            isinstance(cond, Tensor) and (cond.ndim != 1 or cond.is_floating_point())
        ):
            raise ValueError(
                "Switch: expected a class label or a text per sample in cond: give condition.labels"
            )
        keys = [str(key) for key in (cond.tolist() if isinstance(cond, Tensor) else cond)]
        if len(keys) != len(x):
            raise ValueError(
                f"Switch: expected a condition for each of {len(x)} samples, got {len(keys)}"
            )
        strange = [key for key in keys if key not in self.keys]
        if strange and not self.open:
            raise ValueError(
                f"Switch: expected conditions among {', '.join(self.keys)}, got {strange[0]!r}: "
                "add a reward for it, or otherwise="
            )
        return [self.keys.index(key) if key in self.keys else len(self.keys) for key in keys]
