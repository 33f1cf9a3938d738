"""The value of a noisy sample, and what a look-ahead shows of it beside.

    V_t(x) = log E[exp(scale r(X_1)) | x_t = x],

estimated by log sum_k w_k exp(scale r(z_k)) over the guesses (z_k, w_k) of a look-ahead: exact with
draws from the posterior, an approximation with a single guess.

A look-ahead may come in pieces c with shares w_c, so that memory does not grow with its draws. Then
V = log sum_c w_c exp(V_c), and

    grad V = sum_c (w_c exp(V_c - V)) grad V_c,

and alike for the derivative in time. Each piece is differentiated and released before the next is
asked; one running sum is kept.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.conditions import name_of
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time, batch_time, expand
from steer.lookahead.base import Guesses, Lookahead
from steer.lookahead.methods import Identity
from steer.tilt import Tilt, check_finite, check_gradient, no_gradient


class LookaheadValue(NamedTuple):
    """What a look-ahead shows of samples (B, *shape) at one time.

    Attributes:
        value: V_t, (B,), float64.
        reward: mean reward of the guesses, unscaled, (B,), float64.
        guess: first guess of the clean sample, (B, *shape).
        velocity: b_t, (B, *shape), or None.
        gradient: grad V_t, (B, *shape), or None.
        time_derivative: d_t V_t, (B,), float64, or None.
    """

    value: Tensor
    reward: Tensor
    guess: Tensor
    velocity: Tensor | None = None
    gradient: Tensor | None = None
    time_derivative: Tensor | None = None


class Query(NamedTuple):
    """Samples x (B, *shape) at time t under a flow map, with the generator of random guesses."""

    flow_map: FlowMap
    x: Tensor
    t: Time
    cond: Cond = None
    generator: torch.Generator | None = None


class Landed(Identity):
    """The look-ahead at t = 1, where every flow map is the identity."""

    def follows(self, flow_map: FlowMap) -> bool:
        return True


class Value(nn.Module):
    """V_t(x) = log sum_k w_k exp(scale r(z_k)) in float64; differentiable in x and t.

    Args:
        tilt: the reward and its scale.
        lookahead: where x_t will land.
    """

    def __init__(self, tilt: Tilt, lookahead: Lookahead):
        super().__init__()
        self.tilt, self.lookahead = tilt, lookahead

    def forward(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b"]:
        values = []
        for lookahead, share in self.lookahead.pieces():
            guesses = lookahead(flow_map, x, t, cond, generator)
            value = self.of(self.rewards(guesses, t, cond), guesses.log_w, cond)
            values.append(value + math.log(share))
        return torch.logsumexp(torch.stack(values), dim=0) if len(values) > 1 else values[0]

    def look(
        self,
        query: Query,
        *,
        velocity: bool = False,
        gradient: bool = False,
        time_derivative: bool = False,
        instead: str = "a gradient-free sampler",
    ) -> LookaheadValue:
        """Evaluates the value and, where asked, its derivatives, all detached.

        Args:
            query: the samples.
            velocity: whether to return b_t(x) too, shared with the look-ahead where it has it.
            gradient: whether to differentiate in x.
            time_derivative: whether to differentiate in t as well; only with `gradient`.
            instead: what needs no gradient, for the error message.

        Raises:
            ValueError: a gradient of a reward that has none.
            NonFiniteReward: naming the sample and the time.
        """
        total: LookaheadValue | None = None
        for lookahead, share in self.lookahead.pieces():
            wants = velocity and total is None
            if gradient:
                piece = self._differentiated(lookahead, query, wants, time_derivative, instead)
            else:
                piece = self._plain(lookahead, query, wants)
            total = piece if share == 1 else _added(total, piece, share)
        assert total is not None
        return total

    def rewards(self, guesses: Guesses, t: Time, cond: Cond = None) -> Float[Tensor, "k b"]:
        """Evaluates r at every guess."""
        return torch.stack([self.tilt.rewards(z, cond, t) for z in guesses.x1])

    def of(
        self, rewards: Float[Tensor, "k b"], log_w: Float[Tensor, "k b"], cond: Cond = None
    ) -> Float[Tensor, "b"]:
        """Averages known rewards; log_w are normalised again in float64."""
        log_w = torch.log_softmax(log_w.double(), dim=0)
        return torch.logsumexp(self.tilt.scaled(rewards, cond) + log_w, dim=0)

    @torch.no_grad()
    def _plain(self, lookahead: Lookahead, query: Query, velocity: bool) -> LookaheadValue:
        guesses, v = _guesses(lookahead, query, velocity)
        rewards = self.rewards(guesses, query.t, query.cond)
        value = self.of(rewards, guesses.log_w, query.cond)
        return LookaheadValue(value, _mean(rewards, guesses.log_w), guesses.x1[0], v)

    @torch.enable_grad()
    def _differentiated(
        self,
        lookahead: Lookahead,
        query: Query,
        velocity: bool,
        time_derivative: bool,
        instead: str,
    ) -> LookaheadValue:
        x = query.x.detach().requires_grad_()
        t = batch_time(query.t, x).detach().clone().requires_grad_(time_derivative)
        guesses, v = _guesses(lookahead, query._replace(x=x, t=t), velocity)
        rewards = self.rewards(guesses, t, query.cond)
        if not rewards.requires_grad:
            raise ValueError(no_gradient(self.tilt.reward, instead))
        value = self.of(rewards, guesses.log_w, query.cond)
        inputs = [x, t] if time_derivative else [x]
        gradient, *in_time = torch.autograd.grad(
            value.sum(), inputs, allow_unused=True, materialize_grads=True
        )
        check_gradient(self.tilt, gradient, query.t)
        name = name_of(self.tilt.reward)
        for derivative in in_time:
            check_finite(derivative, f"the time derivative of {name} at its guess", query.t)
        value = value.detach()
        return LookaheadValue(
            value,
            _mean(rewards, guesses.log_w),
            guesses.x1[0].detach(),
            v,
            gradient,
            in_time[0].to(value) if in_time else None,
        )


def require_gradient(tilt: Tilt, instead: str) -> None:
    """Raises ValueError under inference_mode(), or for a reward that says it has no gradient."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "it needs gradients, which inference_mode() rules out; wrap it in no_grad() instead"
        )
    if not tilt.differentiable:
        raise ValueError(no_gradient(tilt.reward, instead))


@torch.enable_grad()
def ascent(
    tilt: Tilt, x: Float[Tensor, "b *shape"], t: float, cond: Cond, instead: str
) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
    """Differentiates r at the samples x themselves: grad r (B, *shape), unscaled, and r (B,).

    Raises:
        ValueError: a reward without a gradient; the message names `instead`.
        NonFiniteReward: naming the sample and the time.
    """
    x = x.detach().requires_grad_()
    rewards = tilt.rewards(x, cond, t)
    if not rewards.requires_grad:
        raise ValueError(no_gradient(tilt.reward, instead))
    (gradient,) = torch.autograd.grad(rewards.sum(), x)
    check_gradient(tilt, gradient, t)
    return gradient, rewards.detach()


def _guesses(
    lookahead: Lookahead, query: Query, velocity: bool
) -> tuple[Guesses, Float[Tensor, "b *shape"] | None]:
    """The guesses and, if wanted, the velocity."""
    return lookahead.with_velocity(*query) if velocity else (lookahead(*query), None)


def _mean(rewards: Float[Tensor, "k b"], log_w: Float[Tensor, "k b"]) -> Float[Tensor, "b"]:
    """The mean reward of weighted guesses."""
    return (log_w.exp() * rewards).sum(0).detach()


def _added(total: LookaheadValue | None, piece: LookaheadValue, share: float) -> LookaheadValue:
    """The running sum over pieces, with one piece more."""
    value, reward = piece.value + math.log(share), share * piece.reward
    if total is None:
        return piece._replace(value=value, reward=reward)
    both = torch.logaddexp(total.value, value)
    none = both == -torch.inf  # all guesses so far violate a constraint
    old = torch.where(none, 0.0, (total.value - both).exp())
    new = torch.where(none, 0.0, (value - both).exp())
    return total._replace(
        value=both,
        reward=total.reward + reward,
        gradient=_mixed(old, total.gradient, new, piece.gradient),
        time_derivative=_mixed(old, total.time_derivative, new, piece.time_derivative),
    )


def _mixed(
    old: Float[Tensor, "b"], total: Tensor | None, new: Float[Tensor, "b"], piece: Tensor | None
) -> Tensor | None:
    """old * total + new * piece, or None without a derivative."""
    if total is None or piece is None:
        return None
    return expand(old, total) * total + expand(new, piece) * piece
