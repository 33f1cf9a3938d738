"""Training-free guidance (TFG): one algorithm whose settings are DPS, LGD-MC, FreeDoM, MPGD and
UGD.

A step from the noisier x_s to the cleaner x_t looks ahead to z = D_s(x_s) and blurs the reward
there,

    V(z) = log mean_k exp(scale r(z + gamma e_k)),        e_k ~ N(0, I), k = 1 ... n_mc,

pushes the sample along the gradient through the network and the clean guess along the gradient
without it,

    g = grad_{x_s} V(D_s(x_s)),        z' = z, then n_iter times z' <- z' + mu grad V(z'),

and adds both to the step that DDIM takes from x_s by itself:

    x_t = DDIM(x_s) + rho g + alpha_t (z' - z).

With n_recur > 1 it then goes back to x_s by the forward process, x_s = a x_t + sqrt(sigma_s^2 - a^2
sigma_t^2) e with a = alpha_s / alpha_t, which is exact along any path, and takes the step again.
DDIM's coefficients are in `steer.samplers.training_free.guidance_schedules`; eta = 1 is the
ancestral step of DDPM (Ho et al. 2020), eta = 0 adds no noise.

All of this is biased: r at the posterior mean is not the value, and a strength is a setting, not an
inverse temperature.
Strengths are per step: twice the steps push twice as hard (but see OnScore).
`steer.samplers.training_free` has the special
cases.

Reference: Ye et al. 2024, arXiv 2409.15761.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.training_free.guidance_schedules import (
    Leg,
    Length,
    Norm,
    Slopes,
    Strength,
    UnitAtGuess,
    legs,
    strengths,
)
from steer.tilt import Tilt, check_finite, name_of, no_gradient
from steer.value import refuse_without_gradient

__all__ = ["TrainingFreeGuidance"]

RHO = 2.5  # the default rho times the number of steps
UNIT = UnitAtGuess()


class Push(NamedTuple):
    """The strengths of one step."""

    rho: float
    mu: float
    gamma: float


class Walk(NamedTuple):
    """The samples (B, *shape), and the steps that are left."""

    x: Tensor
    ahead: list[tuple[Leg, Push]]


class Stride(NamedTuple):
    """Where a step leads (B, *shape), and r at the look-ahead it set out with, averaged over draws
    (B,).
    """

    x: Tensor
    reward: Tensor


class TrainingFreeGuidance(Stepwise[Walk]):
    """TFG with all its settings; by default DPS. No weights, no log Z: its samples follow no stated
    law.

    rho, mu and gamma are numbers, functions t -> float, or a Pace
    (`steer.samplers.training_free.guidance_schedules`).

    Args:
        steps: of DDIM.
        rho: what x_t moves by for a gradient of one in x_s: units of x squared over units of scale
            * r, or of x alone with a norm. 2.5 / steps by default, the best of
            `recipes.experiments.strengths` with the default norm.
        mu: what the clean guess moves by in each of its n_iter steps for a gradient of one there;
            the same units.
        gamma: standard deviation of the noise that blurs the reward, in units of the clean sample.
            At 0 nothing is drawn and a look at the reward costs one evaluation, otherwise n_mc. All
            looks within a step share the draws.
        n_iter: gradient steps on the clean guess.
        n_mc: draws of that noise.
        n_recur: how often each step is taken; a number, or a function of t to do so on a stretch of
            the path only.
        eta: DDIM's share of fresh noise, in [0, 1]. At 1, as in DDPM, a step leaves out the spread
            of x1 given x_s: without a reward, standard normal data on the linear path end with
            variance .91, .95 and .98 after 50, 100 and 200 steps.
        lookahead: where x_s will land, one guess without chance: Denoiser(), as in the papers, by
            default. MapJump() asks the reward at the end of the flow line instead, at one more
            evaluation a step; its gradient does not vanish at t = 0 as the denoiser's does, so that
            a rho which grows like 1 / a (Carried, OnScore) overshoots in the first steps.
        keep_noise: whether x_t moves by alpha_t (z' - z), the noise seen from x_s left as it is;
            otherwise the noise moves against the guess, so that both still meet in x_s, and x_t
            moves by (alpha_t - kept alpha_s / sigma_s) (z' - z).
        norm: what becomes of the length of every sample's gradient, g and grad V alike, each by
            itself: a Norm of `steer.samplers.training_free.guidance_schedules`, a number for one
            length, or None to leave them, with which any strength diverges at some scale.
            UnitAtGuess(), the norm of DPS's residual, by default; then only rho and mu say how hard
            to push.
        max_batch: as in Stepwise.

    Raises:
        ValueError: settings out of range; when called, without a reward, with one that has no
            gradient, or a negative gamma.
    """

    claim = "biased"

    def __init__(
        self,
        steps: int = 100,
        rho: Strength | None = None,
        mu: Strength = 0.0,
        gamma: Strength = 0.0,
        *,
        n_iter: int = 1,
        n_mc: int = 1,
        n_recur: int | Callable[[float], int] = 1,
        eta: float = 1.0,
        lookahead: Lookahead | None = None,
        keep_noise: bool = True,
        norm: Norm | float | None = UNIT,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if n_iter < 1 or n_mc < 1 or (not callable(n_recur) and n_recur < 1):
            raise ValueError(
                f"n_iter, n_mc and n_recur are at least 1; got {n_iter}, {n_mc} and {n_recur}"
            )
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is in [0, 1]; got eta={eta}")
        self.lookahead = lookahead or Denoiser()
        if self.lookahead.random:
            raise ValueError(
                f"the look-ahead is one guess without chance; {type(self.lookahead).__name__} draws"
            )
        self.rho, self.mu, self.gamma = RHO / self.steps if rho is None else rho, mu, gamma
        self.n_iter, self.n_mc, self.n_recur, self.eta = n_iter, n_mc, n_recur, eta
        self.keep_noise, self.norm = (
            keep_noise,
            Length(norm) if isinstance(norm, int | float) else norm,
        )

    # --- the loop --------------------------------------------------------------------------------
    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Walk:
        if run.tilt is None:
            raise ValueError(
                "training-free guidance needs a reward; pass tilt=steer.Tilt(reward), or use Sde"
            )
        refuse_without_gradient(run.tilt, "FkSteering or BestOfN")
        ahead = legs(run.flow_map.schedule, self.times(), self.eta)
        columns = (strengths(strength, ahead) for strength in (self.rho, self.mu, self.gamma))
        pushes = [Push(*row) for row in zip(*columns, strict=True)]
        for leg, push in zip(ahead, pushes, strict=True):
            if not all(map(math.isfinite, push)) or push.gamma < 0:
                raise ValueError(
                    f"rho, mu and gamma >= 0 are finite numbers; at t = {leg.s:.4g} they are {tuple(push)}"
                )
        return Walk(x, list(zip(ahead, pushes, strict=True)))

    def step(self, run: Run, now: Walk, s: float, t: float) -> Walk:
        (leg, push), x = now.ahead[0], now.x
        times = self.n_recur(s) if callable(self.n_recur) else self.n_recur
        if times < 1:
            raise ValueError(f"n_recur is at least 1; at t = {s:.4g} it is {times}")
        stride = self.stride(run, x, leg, push)
        for _ in range(times - 1):
            x = leg.ratio * stride.x + leg.back * run.normal(x)
            stride = self.stride(run, x, leg, push)
        run.record(t=t, reward=run.by_prompt(stride.reward).mean(1))
        return Walk(stride.x, now.ahead[1:])

    def finish(self, run: Run, last: Walk) -> Result:
        tilt = self.tilt_of(run, last.x)
        return Result(run.by_prompt(last.x), torch.zeros_like(tilt), None, tilt)

    # --- its parts -------------------------------------------------------------------------------
    def stride(self, run: Run, x: Tensor, leg: Leg, push: Push) -> Stride:
        """One step, at most max_batch samples at a time."""
        tilt = run.tilt
        assert tilt is not None
        blur = (
            [push.gamma * run.normal(x) for _ in range(self.n_mc)]
            if push.gamma
            else [torch.zeros_like(x)]
        )

        def part(x: Tensor, scale: Tensor, blur: Tensor, cond: Cond) -> Stride:
            return self.part(run.flow_map, x, tilt.with_scale(scale), blur, leg, push, cond)

        mean, reward = self.in_batches(
            part, run, x, tilt.scale_for(len(x)), torch.stack(blur, dim=1)
        )
        return Stride(mean + leg.fresh * run.normal(x) if leg.fresh else mean, reward)

    def part(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        tilt: Tilt,
        blur: Float[Tensor, "b k *shape"],
        leg: Leg,
        push: Push,
        cond: Cond,
    ) -> Stride:
        """The step without its fresh noise, for some of the samples."""
        with torch.set_grad_enabled(push.rho != 0):
            x = x.detach().requires_grad_(push.rho != 0)
            guesses, velocity = self.lookahead.with_velocity(flow_map, x, leg.s, cond)
            if len(guesses.x1) != 1:
                raise ValueError(
                    f"the look-ahead is one guess; {type(self.lookahead).__name__} has {len(guesses.x1)}"
                )
            z = (
                guesses.x1[0]
                if push.rho != 0
                else guesses.x1[0].detach().requires_grad_(push.mu != 0)
            )
        asked = [x, z] if push.rho != 0 else [z] if push.mu != 0 else []
        gradients, reward = self.uphill(tilt, z, blur, leg.s, cond, asked)
        x, z = x.detach(), z.detach()
        clean, noise = flow_map.schedule.from_velocity(velocity, x, leg.s)
        mean = leg.alpha_t * clean + leg.kept * noise
        if push.rho != 0:
            mean = mean + push.rho * self.followed(gradients[0], gradients[1], noise, leg)
        if push.mu != 0:
            better = z + push.mu * self.followed(gradients[-1], gradients[-1], noise, leg)
            for _ in range(self.n_iter - 1):
                better = better.requires_grad_()
                (gradient,), _ = self.uphill(tilt, better, blur, leg.s, cond, [better])
                better = better.detach() + push.mu * self.followed(gradient, gradient, noise, leg)
            mean = mean + (leg.alpha_t if self.keep_noise else leg.along) * (better - z)
        return Stride(mean, reward)

    def uphill(
        self, tilt: Tilt, z: Tensor, blur: Tensor, s: float, cond: Cond, asked: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], Float[Tensor, "b"]]:
        """The gradients of V(z) in what is asked for, and the mean of r over the draws."""
        with torch.set_grad_enabled(bool(asked)):
            rewards = torch.stack([tilt.rewards(z + e, cond, s) for e in blur.unbind(1)])
            if not asked:
                return (), rewards.mean(0)
            if not rewards.requires_grad:
                raise ValueError(no_gradient(tilt.reward, "FkSteering or BestOfN"))
            value = torch.logsumexp(tilt.scaled(rewards), dim=0)
            gradients = torch.autograd.grad(value.sum(), asked)
        for gradient in gradients:
            check_finite(gradient, f"the gradient of {name_of(tilt.reward)}", s)
        return gradients, rewards.detach().mean(0)

    def followed(
        self, gradient: Tensor, at_guess: Tensor, noise: Tensor, leg: Leg
    ) -> Float[Tensor, "b *shape"]:
        """A gradient of the length that `norm` gives it."""
        return gradient if self.norm is None else self.norm(Slopes(gradient, at_guess, noise), leg)
