"""Plug-and-play restoration: a gradient or proximal step, renoising, and the map as denoiser.

    x <- mean over draws of  D_t(alpha_t z + sigma_t e),        z = x + gamma_t grad(scale r)(x),

D_t a look-ahead. With the posterior mean this is PnP-Flow; with `FlowMapDenoiser`, whose reach
leads from the posterior mean to the map's jump, flow-map denoisers. The reward is a log likelihood,
such as `rewards.Measurement`. Its gradient never passes through the network. With prox the step is
z = argmax scale r(z) - |z - x|^2 / (2 gamma_t) instead, stable for any gamma.

What comes out is an estimate, not a draw. For normal data of any covariance C, and a likelihood of
curvature H, the mean of the iteration stands still at time t where

    (sigma_t^2 / (alpha_t^2 gamma_t) C^-1 + H) (x - mean) = grad r(mean):

the posterior mean for gamma_t = sigma_t^2 / alpha_t^2 (`Matched`), too near the prior for less, to
the data for more. (With prox, H there is H (1 + gamma C^-1): the same as t -> 1.) That choice of
gamma is ours, the paper's is `Decaying`.

References: Martin et al. 2024, arXiv 2410.02423 (PnP-Flow); Flow Map Denoisers 2026, arXiv
2606.19802, for the denoisers and their use in plug and play; its solver's settings are not
reproduced here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond
from steer.interpolant import Schedule, expand
from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.tilt import check_finite
from steer.value import require_gradient

__all__ = ["Decaying", "Matched", "PlugAndPlay"]

Prox = Callable[[Tensor, Tensor, Cond], Tensor]
INSTEAD = "PlugAndPlay(prox=...) with its proximal step, or BestOfN or FkSteering"


class StepSize(ABC):
    """step_size(schedule, t) -> gamma_t, in units of x^2: a variance."""

    @abstractmethod
    def __call__(self, schedule: Schedule, t: float) -> float:
        """gamma at a time inside (0, 1)."""


@dataclass(frozen=True)
class Decaying(StepSize):
    """gamma_t = start (1 - t)^power, as in PnP-Flow, whose unit of start is the noise variance of
    the measurement.

    Args:
        start: gamma at t = 0. A gradient step beyond 2 noise^2 / |A|^2 overshoots.
        power: how it falls.
    """

    start: float = 0.01
    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.start > 0 or self.power < 0:
            raise ValueError(
                f"Decaying needs start > 0 and power >= 0; got start={self.start},"
                f" power={self.power}: start is noise^2 / |A|^2 for a measurement"
            )

    def __call__(self, schedule: Schedule, t: float) -> float:
        return self.start * (1 - t) ** self.power


@dataclass(frozen=True)
class Matched(StepSize):
    """gamma_t = min(sigma_t^2 / alpha_t^2, most): the variance of x_t / alpha_t around the clean
    sample.

    Args:
        most: bound for gradient steps, noise^2 / |A|^2; a proximal step needs none.
    """

    most: float = float("inf")

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise ValueError(
                f"Matched needs most > 0; got {self.most}: noise^2 / |A|^2 keeps gradient steps"
                " stable"
            )

    def __call__(self, schedule: Schedule, t: float) -> float:
        alpha, sigma, _, _ = schedule(t)
        return min(float((sigma / alpha) ** 2), self.most)


class PlugAndPlay(Stepwise[Tensor]):
    """PnP-Flow, with any denoiser; each particle by itself. A maximiser: an estimate, no law.

    The first step denoises x0 itself; the last ends with the denoiser. It costs 1 + draws (steps -
    1) look-aheads, and steps - 1 gradients of the reward, or proximal steps. With gradient steps
    the trace has the mean reward of each prompt after every step.

    Args:
        steps: times 0, 1/steps, ... at which it denoises.
        lookahead: the denoiser; Denoiser(), as in PnP-Flow, by default. Of several guesses the
            weighted mean.
        step_size: gamma_t; Decaying() by default.
        draws: of noise at each time, whose denoised points are averaged.
        prox: (x, variance, cond) -> argmax_z r(z) - |z - x|^2 / (2 variance), with the variance
            (B,), such as `rewards.Measurement.prox`. Then the reward needs no gradient, and is
            asked only about the end.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

    Raises:
        ValueError: settings out of range; when called, without a reward, or without prox for one
            that has no gradient.
    """

    claim = "maximiser"

    def __init__(
        self,
        steps: int = 50,
        lookahead: Lookahead | None = None,
        step_size: StepSize | None = None,
        draws: int = 1,
        *,
        prox: Prox | None = None,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if draws < 1:
            raise ValueError(
                f"PlugAndPlay needs at least one draw of noise at each time; got draws={draws}"
            )
        self.lookahead = lookahead or Denoiser()
        self.step_size = step_size or Decaying()
        self.draws = draws
        self.prox = prox
        self.needs_gradient = prox is None

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Tensor:
        tilt = run.require_tilt(self, "Jump")
        if self.prox is None:
            require_gradient(tilt, INSTEAD)
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        """Takes the estimate before time s to the one after it; at s = 0 from noise."""
        run.record(t=t)
        if s == 0:
            return self.denoise(run, x, s)
        z = self.ascend(run, x, s)
        path = run.flow_map.schedule
        noisy = [path.interpolate(run.normal(z), z, s) for _ in range(self.draws)]
        return torch.stack([self.denoise(run, x, s) for x in noisy]).mean(0)

    def finish(self, run: Run, x: Tensor) -> Result:
        tilt = run.tilt
        rewards = run.in_batches(lambda x, cond: tilt.rewards(x, cond, 1.0), x)
        if self.prox is None:
            run.record(reward=run.by_prompt(rewards).mean(1))
        return unweighted_result(run, x, run.by_prompt(tilt.scaled(rewards)))

    # --- its phases -----------------------------------------------------------------------------
    def denoise(
        self, run: Run, x: Float[Tensor, "b *shape"], t: float
    ) -> Float[Tensor, "b *shape"]:
        """Averages the look-ahead's guesses."""

        def part(x: Tensor, prompt: Tensor, cond: Cond) -> Tensor:
            guesses = self.lookahead(run.flow_map, x, t, cond, run.generators[int(prompt[0])])
            weights = guesses.log_w.exp()
            return (weights.view(*weights.shape, *[1] * (x.ndim - 1)) * guesses.x1).sum(0)

        return run.in_batches(part, x, run.prompt, apart=self.lookahead.random)

    def ascend(self, run: Run, x: Float[Tensor, "b *shape"], t: float) -> Float[Tensor, "b *shape"]:
        """Takes a step of gamma_t along the gradient of scale * r, or the proximal step."""
        scale = run.tilt.scale_for(len(x))
        gamma = self.step_size(run.flow_map.schedule, t)
        if self.prox is not None:
            z = run.in_batches(self.prox, x, gamma * scale.to(x))
            check_finite(z, "the proximal step", t)
            return z
        gradient, reward = run.reward_gradient(x, t, INSTEAD)
        run.record(reward=run.by_prompt(reward).mean(1))
        return x + expand(gamma * scale, x) * gradient
