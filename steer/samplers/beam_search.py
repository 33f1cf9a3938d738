"""Beam search on the plain noisy dynamics: every few steps the best particles branch.

Each prompt's N particles are beams times branches. At every `every` steps they are ranked by the
value of their look-ahead, the best `beams` survive, and each becomes N / beams copies, which the
noise of the next steps separates.

It looks ahead only where it selects: with the map's jump, steps + steps / every evaluations. (As a
baseline: Sabour et al. 2025, arXiv 2511.22688.)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Lookahead, MapJump
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, copies_separate, noise_level, noisy_step
from steer.samplers.smc.trajectory_search import best

__all__ = ["BeamSearch"]


class Beams(NamedTuple):
    """The particles of all prompts.

    Attributes:
        x: (B, *shape).
        value: their values where last looked at, (P, N).
        velocity: b_t(x), (B, *shape), where that look has just computed it.
    """

    x: Tensor
    value: Tensor
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
        self.beams = beams
        self.lookahead = lookahead or MapJump()
        self.every = every
        self.eps = eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Beams:
        run.require_tilt(self, "Sde")
        if self.beams > run.particles:
            raise ValueError(
                f"{self.beams} beams cannot survive of {run.particles} particles;"
                " draw more, or keep fewer"
            )
        if run.particles % self.beams:
            raise ValueError(
                f"particles are a multiple of the beams, {self.beams}; got {run.particles} of them"
            )
        return Beams(x, x.new_zeros(run.prompts, run.particles, dtype=torch.float64))

    def step(self, run: Run, now: Beams, s: float, t: float) -> Beams:
        x = noisy_step(run, now.x, s, t, noise_level(self.eps, run, s, t), now.velocity)
        now = Beams(x, now.value)
        due = self.branching_is_due(run, t)
        figures: dict[str, Tensor | float] = {"t": t, "resampled": torch.full((run.prompts,), due)}
        if due or t == 1.0:
            ahead = run.value(self.lookahead, x, t)
            figures |= {"seen_t": t, "reward": run.by_prompt(ahead.reward).mean(1)}
            now = Beams(x, run.by_prompt(ahead.value), ahead.velocity)
        run.record(**figures)
        return self.branch(run, now) if due else now

    def finish(self, run: Run, last: Beams) -> Result:
        return unweighted_result(run, last.x, last.value)

    # --- its phases -----------------------------------------------------------------------------
    def branching_is_due(self, run: Run, t: float) -> bool:
        """Whether to select at t: every so many steps, if noise will separate the copies."""
        if self.beams == run.particles or (run.steps + 1) % self.every:
            return False
        return copies_separate(self.eps, run, self.times(), t)

    def branch(self, run: Run, now: Beams) -> Beams:
        """Copies the best beams of each prompt, best first, over and over."""
        ancestors = best(now.value, self.beams)
        velocity = None if now.velocity is None else run.descendants(now.velocity, ancestors)
        value = run.of_particles(now.value, ancestors)
        return Beams(run.descendants(now.x, ancestors), value, velocity)
