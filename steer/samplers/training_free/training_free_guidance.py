"""Training-free guidance (TFG), with DPS, LGD-MC, FreeDoM, MPGD and UGD as its settings.

A step from the noisier x_s to the cleaner x_t looks ahead to z = D_s(x_s) and smooths the reward
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
inverse temperature. Strengths are per step: twice the steps move twice as far (but see OnScore).
`steer.samplers.training_free` has the special cases.

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
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.samplers.training_free.guidance_schedules import (
    DdimStep,
    Gradients,
    Length,
    Norm,
    Strength,
    UnitAtGuess,
    ddim_steps,
    on_steps,
)
from steer.tilt import Tilt, check_gradient, no_gradient
from steer.value import require_gradient

__all__ = ["TrainingFreeGuidance"]

INSTEAD = "FkSteering or BestOfN"
RHO = 2.5  # the default rho times the number of steps
UNIT = UnitAtGuess()


class Strengths(NamedTuple):
    """rho, mu and gamma of one step."""

    rho: float
    mu: float
    gamma: float


class State(NamedTuple):
    """The samples (B, *shape), and the steps that remain with their strengths."""

    x: Tensor
    ahead: list[tuple[DdimStep, Strengths]]


class Guided(NamedTuple):
    """Samples after a step (B, *shape), and r at the look-ahead it began with, averaged (B,)."""

    x: Tensor
    reward: Tensor


class TrainingFreeGuidance(Stepwise[State]):
    """TFG with all its settings; by default DPS. Biased: no weights, no log Z.

    rho, mu and gamma are numbers, functions t -> float, or a GuidanceSchedule
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
    needs_gradient = True

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
        self.rho = RHO / self.steps if rho is None else rho
        self.mu = mu
        self.gamma = gamma
        self.n_iter = n_iter
        self.n_mc = n_mc
        self.n_recur = n_recur
        self.eta = eta
        self.deterministic = eta == 0 and gamma == 0 and n_recur == 1
        self.keep_noise = keep_noise
        self.norm = Length(norm) if isinstance(norm, int | float) else norm

    # --- the loop --------------------------------------------------------------------------------
    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> State:
        require_gradient(run.require_tilt(self, "Sde"), INSTEAD)
        steps = ddim_steps(run.flow_map.schedule, self.times(), self.eta)
        schedules = [on_steps(strength, steps) for strength in (self.rho, self.mu, self.gamma)]
        strengths = [Strengths(*row) for row in zip(*schedules, strict=True)]
        for ddim, strength in zip(steps, strengths, strict=True):
            if not all(map(math.isfinite, strength)) or strength.gamma < 0:
                raise ValueError(
                    "rho, mu and gamma >= 0 are finite numbers;"
                    f" at t = {ddim.s:.4g} they are {tuple(strength)}"
                )
        return State(x, list(zip(steps, strengths, strict=True)))

    def step(self, run: Run, now: State, s: float, t: float) -> State:
        ddim, strength = now.ahead[0]
        times = self.n_recur(s) if callable(self.n_recur) else self.n_recur
        if times < 1:
            raise ValueError(f"n_recur is at least 1; at t = {s:.4g} it is {times}")
        after = self.guided_step(run, now.x, ddim, strength)
        for _ in range(times - 1):
            x = ddim.ratio * after.x + ddim.back * run.normal(now.x)
            after = self.guided_step(run, x, ddim, strength)
        run.record(t=t, reward=run.by_prompt(after.reward).mean(1))
        return State(after.x, now.ahead[1:])

    def finish(self, run: Run, last: State) -> Result:
        return unweighted_result(run, last.x)

    # --- its phases -----------------------------------------------------------------------------
    def guided_step(self, run: Run, x: Tensor, ddim: DdimStep, strength: Strengths) -> Guided:
        """Takes one guided DDIM step with its fresh noise."""
        tilt = run.tilt
        blur = [torch.zeros_like(x)]
        if strength.gamma:
            blur = [strength.gamma * run.normal(x) for _ in range(self.n_mc)]

        def part(x: Tensor, scale: Tensor, blur: Tensor, cond: Cond) -> Guided:
            return self.part(run.flow_map, x, tilt.with_scale(scale), blur, ddim, strength, cond)

        mean, reward = run.in_batches(part, x, tilt.scale_for(len(x)), torch.stack(blur, dim=1))
        return Guided(mean + ddim.fresh * run.normal(x) if ddim.fresh else mean, reward)

    def part(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        tilt: Tilt,
        blur: Float[Tensor, "b k *shape"],
        ddim: DdimStep,
        strength: Strengths,
        cond: Cond,
    ) -> Guided:
        """Takes the step without its fresh noise, for some of the samples."""
        through = strength.rho != 0  # whether to differentiate through the network
        with torch.set_grad_enabled(through):
            x = x.detach().requires_grad_(through)
            guesses, velocity = self.lookahead.with_velocity(flow_map, x, ddim.s, cond)
            if len(guesses.x1) != 1:
                raise ValueError(
                    f"the look-ahead is one guess; {type(self.lookahead).__name__} has"
                    f" {len(guesses.x1)}"
                )
            z = guesses.x1[0]
        if not through:
            z = z.detach().requires_grad_(strength.mu != 0)
        asked = [x, z] if through else [z] if strength.mu != 0 else []
        gradients, reward = self.gradients(tilt, z, blur, ddim.s, cond, asked)
        x = x.detach()
        z = z.detach()
        clean, noise = flow_map.schedule.from_velocity(velocity, x, ddim.s)
        mean = ddim.alpha_t * clean + ddim.kept * noise
        if through:
            at_x, at_z = gradients
            mean = mean + strength.rho * self.normalised(at_x, at_z, noise, ddim)
        if strength.mu != 0:
            at_z = gradients[-1]
            better = z + strength.mu * self.normalised(at_z, at_z, noise, ddim)
            for _ in range(self.n_iter - 1):
                better = better.requires_grad_()
                (at_z,), _ = self.gradients(tilt, better, blur, ddim.s, cond, [better])
                better = better.detach() + strength.mu * self.normalised(at_z, at_z, noise, ddim)
            mean = mean + (ddim.alpha_t if self.keep_noise else ddim.along) * (better - z)
        return Guided(mean, reward)

    def gradients(
        self, tilt: Tilt, z: Tensor, blur: Tensor, s: float, cond: Cond, asked: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], Float[Tensor, "b"]]:
        """Differentiates V(z) in the tensors asked for; also returns the mean of r over draws."""
        with torch.set_grad_enabled(bool(asked)):
            rewards = torch.stack([tilt.rewards(z + e, cond, s) for e in blur.unbind(1)])
            if not asked:
                return (), rewards.mean(0)
            if not rewards.requires_grad:
                raise ValueError(no_gradient(tilt.reward, INSTEAD))
            value = torch.logsumexp(tilt.scaled(rewards), dim=0)
            gradients = torch.autograd.grad(value.sum(), asked)
        for gradient in gradients:
            check_gradient(tilt, gradient, s)
        return gradients, rewards.detach().mean(0)

    def normalised(
        self, gradient: Tensor, at_guess: Tensor, noise: Tensor, ddim: DdimStep
    ) -> Float[Tensor, "b *shape"]:
        """Gives a gradient the length that `norm` asks for."""
        if self.norm is None:
            return gradient
        return self.norm(Gradients(gradient, at_guess, noise), ddim)
