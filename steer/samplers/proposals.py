"""Particles chosen among proposals, with what is seen from them."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Chosen(NamedTuple):
    """The proposal each particle has taken.

    Attributes:
        x: (B, *shape).
        value: its value V_t, (B,).
        reward: mean reward of its look-ahead, unscaled, (B,).
        velocity: b_t(x), (B, *shape), where the look-ahead shares it.
    """

    x: Tensor
    value: Tensor
    reward: Tensor
    velocity: Tensor | None = None

    def replaced(
        self, new: "Chosen", better: Bool[Tensor, "m"], indices: Int[Tensor, "m"] | None = None
    ) -> "Chosen":
        """Replaces the particles whose new proposal is better.

        Args:
            new: proposals of all particles, or of those of `indices`.
            better: which of them to take.
            indices: which particles they are for; all if None.
        """
        if indices is None:
            indices = torch.arange(len(self.x), device=self.x.device)
        parts: list[Any] = []
        for old, fresh in zip(self, new, strict=True):
            if old is not None and fresh is not None:
                old = old.index_copy(0, indices[better], fresh[better])
            parts.append(old)
        return Chosen(*parts)
