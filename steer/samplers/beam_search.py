"""Beam search: the plain noisy dynamics, and every few steps the particles that promise most branch
and the rest end.

Each prompt's N particles are beams times branches. At every `every` steps they are ranked by the
value of their look-ahead, the best `beams` survive, and each becomes N / beams copies, which the
noise of the next steps tells apart.

The selection is that of TrajectoryTilting(guide=False, search=Search(every, beams / N)), and where
both select the samples are the same. That one looks ahead at every step, for its trace and film;
this one only where it selects: with the map's jump steps + steps / every evaluations instead of 2
steps. And it refuses what would leave copies alike. (As a baseline: Sabour et al. 2025, arXiv
2511.22688.)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Lookahead, MapJump
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.looking import look
from steer.samplers.sde import NoiseLevel, noise_level, noisy_step, will_part
from steer.samplers.smc.particles import Search, of_ancestors

__all__ = ["BeamSearch"]


class Beams(NamedTuple):
    """Particles x (B, *shape), their values (P, N) where last looked at, and the velocity at x (B,
    *shape), where that look has just computed it.
    """

    x: Tensor
    value: Tensor
    steps: int
    velocity: Tensor | None = None


class BeamSearch(Stepwise[Beams]):
    """All N particles of the last branching, as they arrive. A maximiser that takes any reward: no
    law, no log Z.

    With as many beams as particles nothing is selected, and it is Sde. There is no branching before
    a last step without noise, whose copies would land together. The trace has the mean reward of
    the particles ("reward") when they were looked at ("seen_t"), before the selection.

    Args:
        steps: Euler-Maruyama steps.
        beams: survivors of a selection; a divisor of the number of particles. With one the search
            is greedy.
        lookahead: where x_t will land; MapJump() by default.
        every: steps between selections; a tenth of all by default.
        eps: the noise level, as in Sde.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

    Raises:
        ValueError: settings out of range; when called, without a reward, with particles that beams
            do not divide, or with a step before the last that adds no noise to copies.
    """

    claim = "maximiser"

    def __init__(
        self,
        steps: int = 100,
        beams: int = 1,
        lookahead: Lookahead | None = None,
        every: int | None = None,
        *,
        eps: float | NoiseLevel = 1.0,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        every = max(steps // 10, 1) if every is None else every
        if beams < 1 or every < 1:
            raise ValueError(
                f"BeamSearch needs beams >= 1 and every >= 1; got beams={beams}, every={every}"
            )
        self.beams, self.lookahead, self.every, self.eps = beams, lookahead or MapJump(), every, eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Beams:
        if run.tilt is None:
            raise ValueError(
                "BeamSearch follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        if self.beams > run.particles:
            raise ValueError(
                f"{self.beams} beams cannot survive of {run.particles} particles; draw more, or keep fewer"
            )
        if run.particles % self.beams:
            raise ValueError(
                f"particles are a multiple of the beams, {self.beams}; got {run.particles} of them"
            )
        return Beams(x, x.new_zeros(run.prompts, run.particles, dtype=torch.float64), 0)

    def step(self, run: Run, now: Beams, s: float, t: float) -> Beams:
        branching = self.beams < run.particles
        x = noisy_step(self, run, now.x, s, t, noise_level(self.eps, run, s, t), now.velocity)
        now = Beams(x, now.value, now.steps + 1)
        due = (
            branching and now.steps % self.every == 0 and will_part(self.eps, run, self.times(), t)
        )
        figures: dict[str, Tensor | float] = {"t": t, "resampled": torch.full((run.prompts,), due)}
        if due or t == 1.0:
            seen = look(self, run, now.x, t, self.lookahead)
            figures |= {"seen_t": t, "reward": run.by_prompt(seen.reward).mean(1)}
            now = now._replace(value=run.by_prompt(seen.value), velocity=seen.velocity)
        run.record(**figures)
        return self.branch(run, now) if due else now

    def finish(self, run: Run, last: Beams) -> Result:
        return Result(run.by_prompt(last.x), torch.zeros_like(last.value), None, last.value)

    # --- its parts -------------------------------------------------------------------------------
    def branch(self, run: Run, now: Beams) -> Beams:
        """The best beams of each prompt, best first, over and over."""
        ancestors = Search(self.every, self.beams / run.particles)(now.value)
        rows = torch.arange(run.prompts, device=run.device)[:, None]
        velocity = None if now.velocity is None else of_ancestors(run, now.velocity, ancestors)
        return Beams(
            of_ancestors(run, now.x, ancestors), now.value[rows, ancestors], now.steps, velocity
        )
