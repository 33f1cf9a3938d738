"""Search along guided trajectories: every few steps the best particles replace the others.

The dynamics are those of trajectory tilting; instead of weighing, the particles of a prompt with
the highest look-ahead survive and are copied. `BeamSearch` selects alike on the plain dynamics.

Reference: Sabour et al. 2025, arXiv 2511.22688.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.annotations import Extended
from steer.flow_map import FlowMap
from steer.lookahead import Lookahead
from steer.resampling import effective_sample_size, weighted_mean
from steer.samplers.base import Claim, Result, unweighted_result
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, copies_separate
from steer.samplers.smc.annealing import LevelFunction, proportional
from steer.samplers.smc.particles import Particles, copied
from steer.samplers.smc.trajectory_tilting import TrajectoryTilting

__all__ = ["TrajectorySearch"]


class TrajectorySearch(TrajectoryTilting):
    """Guided particles of which the best survive. A maximiser: no law, no log Z.

    Args:
        steps: Euler-Maruyama steps.
        lookahead: where x_t will land; MapJump() by default.
        every: steps between selections.
        keep: fraction of the particles that survive, at least one.
        eps, chi, max_batch, film, film_every: as in TrajectoryTilting.
        annealing: l_t, a function of t that ends at 1.
        trust_radius: as in TrajectoryTilting; none by default, since nothing is weighed.
    """

    claim: Claim = "maximiser"

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        every: int = 10,
        keep: float = 0.5,
        *,
        eps: float | NoiseLevel = 1.0,
        chi: float | Callable[[float], float] = 0.0,
        annealing: float | LevelFunction = proportional,
        trust_radius: Extended = math.inf,
        max_batch: int | None = None,
        film: int = 0,
        film_every: int | None = None,
    ):
        super().__init__(
            steps,
            lookahead,
            eps=eps,
            chi=chi,
            annealing=annealing,
            trust_radius=trust_radius,
            max_batch=max_batch,
            film=film,
            film_every=film_every,
        )
        if every < 1 or not 0 < keep <= 1:
            raise ValueError(
                f"TrajectorySearch needs every >= 1 and keep in (0, 1]; got every={every},"
                f" keep={keep}"
            )
        self.every = every
        self.keep = keep

    def claim_on(self, flow_map: FlowMap) -> Claim:
        return self.claim

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Particles:
        now = super().start(run, x)
        return now._replace(log_w=torch.zeros_like(now.log_w))

    def step(self, run: Run, before: Particles, s: float, t: float) -> Particles:
        proposal = self.propose(run, before, s, t)
        now = self.look(run, proposal.x, t, before.log_w, before.log_z)
        now = self.anneal(run, before, now, proposal)
        due = (run.steps + 1) % self.every == 0 and copies_separate(self.eps, run, self.times(), t)
        value = run.by_prompt(now.ahead.value)
        run.record(
            t=t,
            ess=effective_sample_size(now.log_w),
            resampled=torch.full((run.prompts,), due),
            reward=weighted_mean(now.log_w, run.by_prompt(now.ahead.reward)),
            **self.leading(run, now, value, t),
        )
        if not due:
            return now
        return copied(run, now, best(value, max(round(run.particles * self.keep), 1)))

    def finish(self, run: Run, last: Particles) -> Result:
        return unweighted_result(run, last.x, run.by_prompt(last.ahead.value))


def best(value: Float[Tensor, "p n"], keep: int) -> Int[Tensor, "p n"]:
    """Ancestors of a selection: the `keep` best of each prompt, best first, over and over."""
    n = value.shape[1]
    survivors = value.argsort(dim=1, descending=True)[:, :keep]
    return survivors.repeat(1, -(-n // keep))[:, :n]
