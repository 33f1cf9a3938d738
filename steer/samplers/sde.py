"""Stochastic dynamics with the marginals of the flow, for any noise level eps_t >= 0:

    dx = [b + eps s] dt + sqrt(2 eps) dW.

Reference: Albergo, Boffi & Vanden-Eijnden 2023, arXiv 2303.08797.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from steer.flow_map import FlowMap
from steer.interpolant import Schedule
from steer.samplers.base import Claim, Result, Run, Stepwise, importance_weighted

__all__ = ["Sde"]

NoiseLevel = Callable[[float], float]


class Sde(Stepwise[Tensor]):
    """Euler-Maruyama steps of the stochastic dynamics dx = [b + eps s] dt + sqrt(2 eps) dW.

    Its marginals are those of the flow if the map's score is theirs. If not, as with
    classifier-free guidance, every eps has a law of its own.

    Args:
        steps: Euler-Maruyama steps.
        eps: a number, by which the schedule's sigma at the end of each step is multiplied, so that
            the last step adds no noise that nothing would take away again; or any function t ->
            eps_t, taken at the start of each step.
        max_batch: as in Stepwise.
    """

    claim = "exact"

    def __init__(
        self, steps: int = 100, eps: float | NoiseLevel = 1.0, max_batch: int | None = None
    ):
        super().__init__(steps, max_batch)
        self.eps = eps
        self.deterministic = noiseless(eps, self.times())

    def claim_on(self, flow_map: FlowMap) -> Claim:
        return claim_with_noise(flow_map, self.eps, self.times())

    def start(self, run: Run, x: Tensor) -> Tensor:
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        run.record(t=t)
        return noisy_step(run, x, s, t, noise_level(self.eps, run, s, t))

    def finish(self, run: Run, x: Tensor) -> Result:
        return importance_weighted(run, x)


def claim_with_noise(flow_map: FlowMap, eps: float | NoiseLevel, times: list[float]) -> Claim:
    """Returns the claim of a chain with drift b + eps s.

    "exact" if s is the score of the flow's marginals or there is no noise; else only the law of
    the chain itself is sampled exactly.
    """
    if flow_map.score_matches_flow or noiseless(eps, times):
        return "exact"
    return "exact for the chain"


def noiseless(eps: float | NoiseLevel, times: list[float]) -> bool:
    """Whether no step of the grid has noise."""
    if callable(eps):
        return all(float(eps(s)) == 0 for s in times[:-1])
    return eps == 0


class Transition(NamedTuple):
    """N(mean, std^2 I): the law of a batch (B, *shape) after one step."""

    mean: Tensor
    std: float

    def draw(self, run: Run) -> Tensor:
        """Draws one next state for every sample."""
        return self.mean + self.std * run.normal(self.mean)


def euler_maruyama(
    run: Run, x: Tensor, s: float, t: float, eps: float, velocity: Tensor | None = None
) -> Transition:
    """Takes one step from s to t: x + [b + eps s] h + sqrt(2 eps h) e.

    With `velocity`, b_s(x) is known already and not evaluated.
    """
    v = run.velocity(x, s) if velocity is None else velocity
    drift = v if eps == 0 else v + eps * score_of(run.flow_map.schedule, v, x, s)
    return Transition(x + (t - s) * drift, (2 * eps * (t - s)) ** 0.5)


def noisy_step(
    run: Run, x: Tensor, s: float, t: float, eps: float, velocity: Tensor | None = None
) -> Tensor:
    """Draws the next state of an Euler-Maruyama step."""
    return euler_maruyama(run, x, s, t, eps, velocity).draw(run)


def score_of(schedule: Schedule, velocity: Tensor, x: Tensor, t: float) -> Tensor:
    """The score s_t(x) that belongs to a velocity b_t(x), both (B, *shape)."""
    return schedule.score(schedule.from_velocity(velocity, x, t), x, t)


def noise_level(eps: float | NoiseLevel, run: Run, s: float, t: float) -> float:
    """Evaluates eps for the step from s to t: a number times sigma_t, or a function's value at s.

    Raises ValueError if it is negative or not finite.
    """
    level = float(eps(s) if callable(eps) else eps * run.flow_map.schedule(t).sigma)
    if not 0 <= level < math.inf:
        raise ValueError(
            f"the noise level eps must be finite and at least 0; at t = {s:.4g} it is {level}"
        )
    return level


def copies_separate(eps: float | NoiseLevel, run: Run, times: list[float], t: float) -> bool:
    """Whether the step after t adds noise, so that copies made at t become different samples.

    False at t = 1 and before a last step without noise. Raises ValueError if an earlier step has
    no noise.
    """
    later = [end for end in times if end > t]
    if not later:
        return False
    if later[0] < 1:
        return separating_level(eps, run, t, later[0], "copies") > 0
    return noise_level(eps, run, t, 1.0) > 0


def separating_level(eps: float | NoiseLevel, run: Run, s: float, t: float, what: str) -> float:
    """Evaluates eps as `noise_level` does, for steps that must tell copies or proposals apart.

    Raises ValueError if it is 0 before t = 1.
    """
    level = noise_level(eps, run, s, t)
    if level == 0 and t < 1:
        raise ValueError(
            f"{what} stay identical without noise: eps is 0 at t = {s:.4g}; give a positive one"
        )
    return level
