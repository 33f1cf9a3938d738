"""The look-ahead interface: K weighted guesses of the clean sample that x_t becomes."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.construction import call_of
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time

__all__ = ["Guesses", "Lookahead", "log_uniform", "one", "split"]


class Guesses(NamedTuple):
    """Clean guesses x1 (K, B, *shape) and their log weights (K, B), normalised over K."""

    x1: Tensor
    log_w: Tensor


class Lookahead(ABC):
    """lookahead(flow_map, x, t, cond, generator) -> Guesses, differentiable in x and t.

    `random` says that it draws, so that two calls differ; `shares_velocity` that its guesses come
    from b_t(x), which `with_velocity` then hands over at no further evaluation.
    """

    random: bool = False
    shares_velocity: bool = False

    def __repr__(self) -> str:
        return call_of(self)

    def pieces(self) -> list[tuple["Lookahead", float]]:
        """Splits into look-aheads with their shares, to be evaluated one after the other.

        Their guesses together are this one's; memory is that of the largest.
        """
        return [(self, 1.0)]

    def follows(self, flow_map: FlowMap) -> bool:
        """Whether guesses are constant along dx/dt = b_t(x), as X_{t,1} is.

        Then (d_t + b . grad) L = 0.
        """
        return False

    @abstractmethod
    def __call__(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Guesses:
        """The guesses for x at time t."""

    def with_velocity(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Guesses, Float[Tensor, "b *shape"]]:
        """The guesses, and the velocity b_t(x) that a sampler needs beside them, detached."""
        guesses = self(flow_map, x, t, cond, generator)
        with torch.no_grad():
            return guesses, flow_map.velocity(x, t, cond)


def one(x1: Float[Tensor, "b *shape"]) -> Guesses:
    """A single guess of weight one."""
    return Guesses(x1[None], x1.new_zeros(1, len(x1)))


def split(whole: int, most: int | None) -> list[int]:
    """A number in parts of at most `most`."""
    size = most or whole
    return [min(size, whole - i) for i in range(0, whole, size)]


def log_uniform(x1: Float[Tensor, "k b *shape"]) -> Float[Tensor, "k b"]:
    """Equal log weights for K guesses."""
    return x1.new_full(x1.shape[:2], -math.log(len(x1)))
