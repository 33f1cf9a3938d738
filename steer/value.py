"""The value of noisy samples and which way it rises, piece by piece of the look-ahead: memory does
not grow with its draws.

V = log sum_c w_c exp(V_c) over pieces c of the look-ahead's guesses, w_c their shares, so that

    grad V = sum_c (w_c exp(V_c - V)) grad V_c,

and the same for the derivative in time and for the mean reward with w_c alone. Each piece is
differentiated and let go before the next is asked; what is kept is one running sum.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time, batch_time, expand
from steer.lookahead import Guesses, Lookahead
from steer.tilt import Tilt, Value, check_finite, name_of, no_gradient


class View(NamedTuple):
    """What a look-ahead shows of samples (B, *shape).

    Attributes:
        value: V_t, (B,).
        reward: the mean reward of the guesses, unscaled, (B,).
        guess: the first guess of where each will land.
        velocity: b_t, or None if not asked for.
        slope: grad V_t; zero if not asked for.
        in_time: d_t V_t, (B,); zero if not asked for.
    """

    value: Tensor
    reward: Tensor
    guess: Tensor
    velocity: Tensor | None
    slope: Tensor
    in_time: Tensor


class Asked(NamedTuple):
    """Samples (B, *shape), their time and conditions, the map that is to say where they go, and the
    chance of guesses.
    """

    flow_map: FlowMap
    x: Tensor
    t: Time
    cond: Cond = None
    generator: torch.Generator | None = None

    def guesses(self, lookahead: Lookahead, velocity: bool) -> tuple[Guesses, Tensor | None]:
        """The look-ahead's guesses and, if wanted, the velocity."""
        if velocity:
            return lookahead.with_velocity(*self)
        return lookahead(*self), None


@torch.no_grad()
def look(value: Value, asked: Asked, velocity: bool = True) -> View:
    """The value alone, without a gradient."""

    def part(lookahead: Lookahead, first: bool) -> View:
        guesses, v = asked.guesses(lookahead, velocity and first)
        rewards = value.rewards(guesses, asked.t, asked.cond)
        values, flat = value.of(rewards, guesses.log_w), torch.zeros_like(asked.x)
        return View(
            values, mean(rewards, guesses.log_w), guesses.x1[0], v, flat, torch.zeros_like(values)
        )

    return joined(value.lookahead, part)


@torch.enable_grad()
def rise(
    value: Value, asked: Asked, instead: str, in_time: bool = True, velocity: bool = True
) -> View:
    """The value and its gradient in x and, with `in_time`, in t; neither is followed further back.

    Raises:
        ValueError: the reward has no gradient; the message sends to `instead`.
        NonFiniteReward: naming the sample and the time.
    """

    def part(lookahead: Lookahead, first: bool) -> View:
        x = asked.x.detach().requires_grad_()
        t = batch_time(asked.t, x).detach().clone().requires_grad_(in_time)
        guesses, v = asked._replace(x=x, t=t).guesses(lookahead, velocity and first)
        rewards = value.rewards(guesses, t, asked.cond)
        if not rewards.requires_grad:
            raise ValueError(no_gradient(value.tilt.reward, instead))
        values = value.of(rewards, guesses.log_w)
        inputs = [x, t] if in_time else [x]
        slope, *rest = torch.autograd.grad(
            values.sum(), inputs, allow_unused=True, materialize_grads=True
        )
        check_finite(slope, f"the gradient of {name_of(value.tilt.reward)}", asked.t)
        if in_time:
            check_finite(
                rest[0],
                f"the time derivative of {name_of(value.tilt.reward)} at its look-ahead",
                asked.t,
            )
        values = values.detach()
        d_t = rest[0].to(values) if in_time else torch.zeros_like(values)
        return View(values, mean(rewards, guesses.log_w), guesses.x1[0].detach(), v, slope, d_t)

    return joined(value.lookahead, part)


def refuse_without_gradient(tilt: Tilt, instead: str) -> None:
    """Raises ValueError where `rise` could not: under inference_mode(), or for a reward that says
    it has no gradient.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "it needs gradients, which inference_mode() rules out; wrap it in no_grad() instead"
        )
    if not tilt.differentiable:
        raise ValueError(no_gradient(tilt.reward, instead))


def joined(lookahead: Lookahead, part: Callable[[Lookahead, bool], View]) -> View:
    """part(piece, whether it is the first) over the pieces of a look-ahead, in one running sum."""
    (piece, share), *others = lookahead.pieces()
    first = part(piece, True)
    if not others:
        return first
    total = first._replace(value=first.value + math.log(share), reward=share * first.reward)
    for piece, share in others:
        more = part(piece, False)
        value = more.value + math.log(share)
        both = torch.logaddexp(total.value, value)
        none = both == -torch.inf  # all guesses so far break a constraint
        old = torch.where(none, 0.0, (total.value - both).exp())
        new = torch.where(none, 0.0, (value - both).exp())
        total = total._replace(
            value=both,
            reward=total.reward + share * more.reward,
            slope=expand(old, total.slope) * total.slope + expand(new, more.slope) * more.slope,
            in_time=old * total.in_time + new * more.in_time,
        )
    return total


def mean(rewards: Float[Tensor, "k b"], log_w: Float[Tensor, "k b"]) -> Float[Tensor, "b"]:
    """The mean reward of weighted guesses."""
    return (log_w.exp() * rewards).sum(0).detach()
