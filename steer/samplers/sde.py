"""The same marginals with noise: dx = [b + eps s] dt + sqrt(2 eps) dW, for any eps_t >= 0.

Reference: Albergo, Boffi & Vanden-Eijnden 2023, arXiv 2303.08797.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from steer.flow_map import FlowMap
from steer.samplers.base import Claim, Result, Run, Stepwise

__all__ = ["Sde"]

NoiseLevel = Callable[[float], float]


class Sde(Stepwise[Tensor]):
    """Euler-Maruyama on the stochastic dynamics whose marginals are those of the flow, if the map's
    score is theirs. If not, as with classifier-free guidance, every eps has a law of its own.

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

    def claim_on(self, flow_map: FlowMap) -> Claim:
        return claim_with_noise(flow_map, self.eps, self.times())

    def start(self, run: Run, x: Tensor) -> Tensor:
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        run.record(t=t)
        return noisy_step(self, run, x, s, t, noise_level(self.eps, run, s, t))

    def finish(self, run: Run, x: Tensor) -> Result:
        return self.weigh(run, x)


def claim_with_noise(flow_map: FlowMap, eps: float | NoiseLevel, times: list[float]) -> Claim:
    """The claim of b + eps s with noise: the flow's law if s is the score of its marginals, else
    that of the chain itself.
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
    """N(mean, std^2 I): where a batch (B, *shape) goes in one step."""

    mean: Tensor
    std: float

    def draw(self, run: Run) -> Tensor:
        """One draw for every sample."""
        return self.mean + self.std * run.normal(self.mean)


def euler_maruyama(
    sampler: Stepwise,
    run: Run,
    x: Tensor,
    s: float,
    t: float,
    eps: float,
    velocity: Tensor | None = None,
) -> Transition:
    """One step from s to t on a batch: x + [b + eps s] h + sqrt(2 eps h) e. With `velocity`, b_s(x)
    is known already.
    """
    schedule = run.flow_map.schedule
    v = velocity
    if v is None:
        v = sampler.in_batches(lambda x, cond: run.flow_map.velocity(x, s, cond), run, x)
    drift = v if eps == 0 else v + eps * schedule.score(schedule.from_velocity(v, x, s), x, s)
    return Transition(x + (t - s) * drift, (2 * eps * (t - s)) ** 0.5)


def noisy_step(
    sampler: Stepwise,
    run: Run,
    x: Tensor,
    s: float,
    t: float,
    eps: float,
    velocity: Tensor | None = None,
) -> Tensor:
    """A draw of it."""
    return euler_maruyama(sampler, run, x, s, t, eps, velocity).draw(run)


def noise_level(eps: float | NoiseLevel, run: Run, s: float, t: float) -> float:
    """eps of the step from s to t: a number times sigma at t, or a function's value at s. Raises
    ValueError below 0.
    """
    level = float(eps(s) if callable(eps) else eps * run.flow_map.schedule(t).sigma)
    if not 0 <= level < math.inf:
        raise ValueError(
            f"the noise level eps must be finite and at least 0; at t = {s:.4g} it is {level}"
        )
    return level


def will_part(eps: float | NoiseLevel, run: Run, times: list[float], t: float) -> bool:
    """Whether the step after t has noise to part copies made at t. Without, they are refused before
    t = 1 (ValueError); and pointless before a last step without noise, or at t = 1.
    """
    later = [end for end in times if end > t]
    if not later:
        return False
    if later[0] < 1:
        return separating_level(eps, run, t, later[0], "copies") > 0
    return noise_level(eps, run, t, 1.0) > 0


def separating_level(eps: float | NoiseLevel, run: Run, s: float, t: float, alike: str) -> float:
    """noise_level, refused with a ValueError where it is 0 before t = 1 and `alike` (copies,
    proposals) would stay so.
    """
    level = noise_level(eps, run, s, t)
    if level == 0 and t < 1:
        raise ValueError(
            f"{alike} stay alike without noise: eps is 0 at t = {s:.4g}; give a positive one"
        )
    return level
