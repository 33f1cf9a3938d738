"""Best of N in rounds: draw, keep the best, put noise back on them, and draw again from there.

Round 1 jumps from the noise it is given, X_{0,1}(x0). Each further round returns the best `keep`
seen so far to a time t_r, x_t = alpha_t x1 + sigma_t e with fresh noise for every candidate, jumps
to the data again, and keeps the best of old and new. t_r = 0 forgets what was found: R rounds of N
are then the best of R N. The nearer t_r to 1, the more local the search.

With jumps, a relative of the search over paths of Ma et al. 2025, arXiv 2501.09732, whose paths end
in ODE solves.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Identity
from steer.samplers.base import Result, Stepwise
from steer.samplers.run import Run

__all__ = ["BestOfRounds"]


class Kept(NamedTuple):
    """The best samples so far, best first, and where the next jumps start.

    Attributes:
        x: (P, keep, *shape).
        value: scale * r, (P, keep).
        reward: r, (P, keep).
        start: noisy samples that the next jumps start from, (B, *shape).
        t: their time.
    """

    x: Tensor
    value: Tensor
    reward: Tensor
    start: Tensor
    t: float


class BestOfRounds(Stepwise[Kept]):
    """The best `keep` of all candidates of all rounds, as x (prompts, keep, *shape), best first.

    Takes any reward. One round with keep=1 is BestOfN(Jump(jumps)). A maximiser: its samples follow
    no stated law. It costs particles * rounds * jumps evaluations for each prompt, and a reward
    per candidate.

    Args:
        steps: rounds, R. The trace counts them as times, k / R, and has the mean reward of the kept
            after each ("reward") and that of the round's own candidates ("drawn").
        renoise_to: the time t_r to which the kept return, in [0, 1): one for all rounds, or one for
            each after the first.
        keep: how many survive each round and are returned; the candidates of the next are shared
            out among them.
        jumps: of the map, from t_r to the data.
        max_batch: as in Stepwise.

    Raises:
        ValueError: settings out of range; when called, without a reward or with fewer particles
            than `keep`.
    """

    claim = "maximiser"

    def __init__(
        self,
        steps: int = 4,
        renoise_to: float | Sequence[float] = 0.5,
        keep: int = 1,
        *,
        jumps: int = 1,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if keep < 1 or jumps < 1:
            raise ValueError(
                f"BestOfRounds needs keep >= 1 and jumps >= 1; got keep={keep}, jumps={jumps}"
            )
        if isinstance(renoise_to, Sequence):
            self.renoise_to = list(renoise_to)
        else:
            self.renoise_to = [float(renoise_to)] * (steps - 1)
        if len(self.renoise_to) != steps - 1 or not all(0 <= t < 1 for t in self.renoise_to):
            raise ValueError(
                f"renoise_to is a time in [0, 1), or one for each of the {steps - 1} rounds after"
                f" the first; got {renoise_to}"
            )
        self.keep = keep
        self.jumps = jumps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Kept:
        run.require_tilt(self, "Jump")
        if self.keep > run.particles:
            raise ValueError(
                f"BestOfRounds keeps {self.keep} of {run.particles} particles;"
                " draw more, or keep fewer"
            )
        none = x.new_zeros(run.prompts, 0, dtype=torch.float64)
        return Kept(run.by_prompt(x)[:, :0], none, none, x, 0.0)

    def step(self, run: Run, now: Kept, s: float, t: float) -> Kept:
        """Takes one round; the grid of times counts rounds, t = k / R."""
        x1 = self.land(run, now.start, now.t)
        ahead = run.value(Identity(), x1, 1.0)
        drawn = run.by_prompt(ahead.reward)
        value = torch.cat((now.value, run.by_prompt(ahead.value)), dim=1)
        order = value.argsort(dim=1, descending=True, stable=True)  # of equals, the first found
        kept = order[:, : self.keep]
        x = run.of_particles(torch.cat((now.x, run.by_prompt(x1)), dim=1), kept)
        reward = run.of_particles(torch.cat((now.reward, drawn), dim=1), kept)
        run.record(t=t, reward=reward.mean(1), drawn=drawn.mean(1))
        now = Kept(x, run.of_particles(value, kept), reward, x1, 1.0)
        return now if t == 1.0 else self.renoised(run, now, self.renoise_to[run.steps])

    def finish(self, run: Run, last: Kept) -> Result:
        return Result(last.x, torch.zeros_like(last.value), None, last.value)

    # --- its phases -----------------------------------------------------------------------------
    def land(self, run: Run, x: Tensor, t: float) -> Tensor:
        """Reaches the data by equal jumps from time t."""
        for a, b in pairwise(torch.linspace(t, 1, self.jumps + 1, dtype=torch.float64).tolist()):
            x = run.jump(x, a, b)
        return x

    def renoised(self, run: Run, now: Kept, t: float) -> Kept:
        """Copies the kept to all particles and adds fresh noise of time t to each."""
        copies = now.x[:, torch.arange(run.particles) % self.keep].flatten(0, 1)
        start = run.flow_map.schedule.interpolate(run.normal(copies), copies, t)
        return now._replace(start=start, t=t)
