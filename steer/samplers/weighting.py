"""Log weights of a guided chain: how much likelier the promised law finds each step than the chain did.

The chain is x' = x + [b + eps s + (eps + chi) grad r_t] h + sqrt(2 eps h) e, with r_t = t V_t the tilt reached at time t.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Glance(NamedTuple):
    """What is known of a state (x, t) after one look ahead, all per sample.

    Attributes:
        value: V_t(x), (B,).
        velocity: b_t(x).
        gradient: grad r_t(x), r_t = t V_t.
        rate: (d_t + b . grad) r_t, (B,).
        reward: mean of r over the guesses, unscaled, (B,).
        guess: the first guess of where x will land.
    """

    value: Tensor
    velocity: Tensor
    gradient: Tensor
    rate: Tensor
    reward: Tensor
    guess: Tensor


class Move(NamedTuple):
    """One step of the chain from s to t.

    Attributes:
        s, t: the times.
        eps, chi: noise level and extra drift at s.
        noise: sqrt(2 eps h) e, what was added at random.
    """

    s: float
    t: float
    eps: float
    chi: float
    noise: Tensor


class Weighting(ABC):
    """weighting(before, after, move) -> increments of log w (B,)."""

    @abstractmethod
    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        """The increments."""


class PathWeights(Weighting):
    """The weights of continuous time, dA = (d_t r + b . grad r) dt, summed along the path by the trapezoidal rule.

    For the drift b + eps (s + grad r) that is all (Sabour et al. 2025, arXiv 2511.22688; Skreta et al. 2025, arXiv
    2503.02819). A further drift chi grad r adds chi (lap r + grad r . s + |grad r|^2) dt. Its Laplacian is read off the
    simulated path by Ito's formula, eps lap r dt = dr - (all the other terms of dr), which leaves

        dA = rate dt + (chi / eps) [dr - rate dt - chi |grad r|^2 dt - grad r . sqrt(2 eps) dW].

    Exact as the step goes to zero.

    Args:
        trapezoidal: average the rate over both ends of the step; otherwise take it at the start.
    """

    def __init__(self, trapezoidal: bool = True):
        self.trapezoidal = trapezoidal

    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        h = move.t - move.s
        rate = (before.rate + after.rate) / 2 if self.trapezoidal else before.rate
        if move.chi == 0:
            return rate * h
        if move.eps == 0:
            raise ValueError(
                f"extra drift needs noise to be weighted: eps is 0 at t = {move.s:.4g} where chi is {move.chi}"
            )
        dr = move.t * after.value - move.s * before.value
        drift = move.chi * _dot(before.gradient, before.gradient) * h + _dot(before.gradient, move.noise)
        return rate * h + move.chi / move.eps * (dr - rate * h - drift)


class TransitionWeights(Weighting):
    """The ratio of Gaussian transition densities, unguided chain over guided chain, times exp(r_t(x') - r_s(x)).

    Exact at every step size relative to the unguided chain: the only error left is that chain's own. Needs no rate, and
    with no guidance no gradient; the weights vary more than those of the path.
    """

    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        dr = move.t * after.value - move.s * before.value
        coefficient = move.eps + move.chi
        if coefficient == 0:
            return dr
        if move.eps == 0:
            raise ValueError(f"transition weights need noise: eps is 0 at t = {move.s:.4g}, where the drift is guided")
        kick = coefficient * (move.t - move.s)
        variance = 2 * move.eps * (move.t - move.s)
        square = _dot(before.gradient, before.gradient)
        return dr - (kick * _dot(before.gradient, move.noise) + 0.5 * kick**2 * square) / variance


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
    return (a * b).flatten(1).sum(1)
