"""Gaussians diagonal in axes of their own, and what a quadratic or linear reward makes of them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Gaussians"]


@runtime_checkable
class QuadraticReward(Protocol):
    """A reward r(x) = -precision/2 |x - center|^2, such as `rewards.Quadratic`."""

    center: Any
    precision: Any


@runtime_checkable
class LinearReward(Protocol):
    """A reward r(x) = direction . x, such as `rewards.Linear`."""

    direction: Any


class Gaussians(NamedTuple):
    """Gaussians in coordinates along their own axes: log_w (..., K), mean (..., K, d), var (..., K,
    d).
    """

    log_w: Tensor
    mean: Tensor
    var: Tensor


def tilt(g: Gaussians, reward: object, point: Callable[[Any], Tensor]) -> Gaussians:
    """Each Gaussian times exp(r), again a Gaussian; the mass it gains or loses is added to its log
    weight.

    Args:
        g: the Gaussians.
        reward: quadratic or linear.
        point: numbers (d,) -> the point or direction along every Gaussian's axes, (K, d).

    Raises:
        ValueError: a reward neither quadratic nor linear, or one that grows faster than a Gaussian
            decays.
    """
    if isinstance(reward, QuadraticReward):
        center = point(reward.center)
        precision = torch.as_tensor(reward.precision, dtype=g.mean.dtype)
        shrink = 1 + precision * g.var
        if not (shrink > 0).all():
            raise ValueError(
                f"exp(r) has no mean: precision {float(precision)} is below -1 over the largest variance"
            )
        gain = -0.5 * (shrink.log() + precision * (g.mean - center) ** 2 / shrink).sum(-1)
        return Gaussians(
            g.log_w + gain, (g.mean + precision * g.var * center) / shrink, g.var / shrink
        )
    if isinstance(reward, LinearReward):
        a = point(reward.direction)
        gain = (a * g.mean + 0.5 * a**2 * g.var).sum(-1)
        return Gaussians(g.log_w + gain, g.mean + g.var * a, g.var)
    raise ValueError(
        f"only quadratic and linear rewards tilt in closed form; got {type(reward).__name__}"
    )
