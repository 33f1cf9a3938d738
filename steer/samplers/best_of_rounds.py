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
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.looking import look

__all__ = ["BestOfRounds"]


class Kept(NamedTuple):
    """The best so far, best first: x (P, keep, *shape), value and reward (P, keep). Then what comes
    next: where its jumps
    start (B, *shape), and at which time.
    """

    x: Tensor
    value: Tensor
    reward: Tensor
    start: Tensor
    t: float
    rounds: int


class BestOfRounds(Stepwise[Kept]):
    """The best `keep` of all candidates of all rounds, as x (prompts, keep, *shape), best first.
    Takes any reward.

    One round with keep=1 is BestOfN(Jump(jumps)). A maximiser: what it returns follows no stated
    law. It costs particles * rounds * jumps evaluations for each prompt, and a reward per
    candidate.

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
        self.renoise_to = (
            list(renoise_to)
            if isinstance(renoise_to, Sequence)
            else [float(renoise_to)] * (steps - 1)
        )
        if len(self.renoise_to) != steps - 1 or not all(0 <= t < 1 for t in self.renoise_to):
            raise ValueError(
                f"renoise_to is a time in [0, 1), or one for each of the {steps - 1} rounds after the first; got {renoise_to}"
            )
        self.keep, self.jumps = keep, jumps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Kept:
        if run.tilt is None:
            raise ValueError(
                "BestOfRounds needs a reward to choose by; pass tilt=steer.Tilt(reward)"
            )
        if self.keep > run.particles:
            raise ValueError(
                f"BestOfRounds keeps {self.keep} of {run.particles} particles; draw more, or keep fewer"
            )
        none = x.new_zeros(run.prompts, 0, dtype=torch.float64)
        return Kept(run.by_prompt(x)[:, :0], none, none, x, 0.0, 0)

    def step(self, run: Run, now: Kept, s: float, t: float) -> Kept:
        """One round: here the grid of times counts rounds, t = k / R."""
        x1 = self.land(run, now.start, now.t)
        seen = look(self, run, x1, 1.0, Identity())
        drawn = run.by_prompt(seen.reward)
        value = torch.cat((now.value, run.by_prompt(seen.value)), dim=1)
        best = value.argsort(dim=1, descending=True, stable=True)[
            :, : self.keep
        ]  # of equals, the one found first
        rows = torch.arange(run.prompts, device=run.device)[:, None]
        x = torch.cat((now.x, run.by_prompt(x1)), dim=1)[rows, best]
        reward = torch.cat((now.reward, drawn), dim=1)[rows, best]
        run.record(t=t, reward=reward.mean(1), drawn=drawn.mean(1))
        now = Kept(x, value[rows, best], reward, x1, 1.0, now.rounds + 1)
        return now if t == 1.0 else self.back(run, now, self.renoise_to[now.rounds - 1])

    def finish(self, run: Run, last: Kept) -> Result:
        return Result(last.x, torch.zeros_like(last.value), None, last.value)

    # --- its parts -------------------------------------------------------------------------------
    def land(self, run: Run, x: Tensor, t: float) -> Tensor:
        """The data, by equal jumps from time t."""
        for a, b in pairwise(torch.linspace(t, 1, self.jumps + 1, dtype=torch.float64).tolist()):
            x = self.in_batches(lambda x, cond, a=a, b=b: run.flow_map(x, a, b, cond), run, x)
        return x

    def back(self, run: Run, now: Kept, t: float) -> Kept:
        """The kept, over and over, with noise of time t on each copy."""
        copies = now.x[:, torch.arange(run.particles) % self.keep].flatten(0, 1)
        return now._replace(
            start=run.flow_map.schedule.interpolate(run.normal(copies), copies, t), t=t
        )
