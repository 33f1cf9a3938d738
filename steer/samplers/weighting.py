"""Log weights of a guided chain: how much likelier the promised law finds each step than the chain did.

The chain is x' = x + [b + eps s + (eps + chi) grad r_t] h + sqrt(2 eps h) e, with r_t = l_t V_t the tilt reached at time t:
a value V_t, and a level l_t that ends at 1.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from steer.interpolant import expand


class Glance(NamedTuple):
    """What is known of a state (x, t) after one look ahead, all per sample.

    Attributes:
        value: V_t(x), (B,).
        velocity: b_t(x).
        score: s_t(x); zero at t = 1, where it is not needed and may not exist.
        slope: grad V_t(x).
        rate: (d_t + b . grad) V_t, (B,).
        reward: mean of r over the guesses, unscaled, (B,).
        guess: the first guess of where x will land.
        level: l_t, (B,).
    """

    value: Tensor
    velocity: Tensor
    score: Tensor
    slope: Tensor
    rate: Tensor
    reward: Tensor
    guess: Tensor
    level: Tensor

    @property
    def tilt(self) -> Float[Tensor, "b"]:
        """r_t = l_t V_t."""
        return self.level * self.value

    @property
    def gradient(self) -> Float[Tensor, "b *shape"]:
        """grad r_t."""
        return expand(self.level, self.slope) * self.slope

    def at(self, level: Float[Tensor, "b"]) -> "Glance":
        """The same view at another level."""
        return self._replace(level=level.to(self.value))


class Move(NamedTuple):
    """One step of the chain from s to t.

    Attributes:
        s, t: the times.
        eps, chi: noise level and extra drift at s.
        noise: sqrt(2 eps h) e, what was added at random.
        step: x' - x, or None before it is made.
    """

    s: float
    t: float
    eps: float
    chi: float
    noise: Tensor
    step: Tensor | None = None


class Weighting(ABC):
    """weighting(before, after, move) -> increments of log w (B,)."""

    @abstractmethod
    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        """The increments."""


class PathWeights(Weighting):
    """The weights of continuous time, dA = (d_t r + b . grad r) dt = V dl + l (d_t V + b . grad V) dt, by the trapezoidal rule.

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
        h, climbed = move.t - move.s, after.level - before.level
        if self.trapezoidal:
            value, rate = (before.value + after.value) / 2, (before.level * before.rate + after.level * after.rate) / 2
        else:
            value, rate = before.value, before.level * before.rate
        gain = climbed * value + h * rate
        if move.chi == 0:
            return gain
        if move.eps == 0:
            raise ValueError(
                f"extra drift needs noise to be weighted: eps is 0 at t = {move.s:.4g} where chi is {move.chi}"
            )
        gradient = before.gradient
        drift = move.chi * _dot(gradient, gradient) * h + _dot(gradient, move.noise)
        return gain + move.chi / move.eps * (after.tilt - before.tilt - gain - drift)


class TransitionWeights(Weighting):
    """The ratio of Gaussian transition densities, unguided chain over guided chain, times exp(r_t(x') - r_s(x)).

    Exact at every step size relative to the unguided chain: the only error left is that chain's own. Needs no rate, and
    with no guidance no gradient; the weights vary more than those of the path.
    """

    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        dr = after.tilt - before.tilt
        coefficient = move.eps + move.chi
        if coefficient == 0:
            return dr
        if move.eps == 0:
            raise ValueError(f"transition weights need noise: eps is 0 at t = {move.s:.4g}, where the drift is guided")
        kick = coefficient * (move.t - move.s)
        variance = 2 * move.eps * (move.t - move.s)
        gradient = before.gradient
        return dr - (kick * _dot(gradient, move.noise) + 0.5 * kick**2 * _dot(gradient, gradient)) / variance


class ReversalWeights(Weighting):
    """The ratio of four Gaussian transitions, there and back: guided and unguided, times exp(r_t(x') - r_s(x)).

    The unguided process is the same backwards as forwards, p_s(x) F(x'|x) = p_t(x') B(x|x') in the limit of short steps, with B
    of drift -b + eps s; the path of targets p_t exp(r_t), were it met exactly, would be left by K forwards and by L of drift
    -b - chi grad r + eps (s + grad r) backwards. So the weights are

        exp(r_t(x') - r_s(x)) [L(x|x') / B(x|x')] [F(x'|x) / K(x'|x)].

    Exact as the step goes to zero, with noisy values and gradients too. Where the guided dynamics keep to the targets by
    themselves, as those of the exact value with chi = c_t do, they do not vary. (Vaikuntanathan & Jarzynski 2008, arXiv
    0804.3055; Albergo & Vanden-Eijnden 2024, arXiv 2410.02711.)
    """

    def __call__(self, before: Glance, after: Glance, move: Move) -> Float[Tensor, "b"]:
        dr, h, step = after.tilt - before.tilt, move.t - move.s, move.step
        if move.eps == 0:
            if move.chi == 0:
                return dr
            raise ValueError(f"weights by reversal need noise: eps is 0 at t = {move.s:.4g}, where the drift is guided")
        if move.t == 1.0:
            raise ValueError(
                "weights by reversal ask for the score at the end of a noisy step, and at t = 1 there may be none:"
                " give eps as a number, whose last step has no noise"
            )
        assert step is not None
        there, back = h * (move.eps + move.chi) * before.gradient, h * (move.eps - move.chi) * after.gradient
        returned = -step - h * (move.eps * after.score - after.velocity)  # the noise of the way back, unguided
        log_back = 2 * _dot(back, returned) - _dot(back, back)
        log_there = 2 * _dot(there, move.noise) + _dot(there, there)
        return dr + (log_back - log_there) / (4 * move.eps * h)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
    return (a * b).flatten(1).sum(1)
