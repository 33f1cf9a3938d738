"""RBF, rollover budget forcing: spend evaluations where improvement is hard to find, and save them
where it is easy.

Each step from s to t has a quota of proposals for the next state, drawn from the noisy dynamics one
by one. The first whose value V_t = scale * r at the look-ahead beats the record r*, the highest
seen so far (at first that of the noise), is taken at once, and what is left of the quota rolls over
to the next step. If none beats it, the best of them is taken. The record stays where it is then, as
in the authors' code: it is not the value of the state.

In the last step with noise nothing is left to save for: the whole quota is spent, as in the
authors' code, and the best
taken. So the budget is always used up: quota * (steps - 1) + 1 proposals for a particle, the last,
noiseless step having one.

Reference: Kim et al. 2025, arXiv 2503.19385. There one particle is followed, from the best of
several starts, on a
variance-preserving path (here `steer.maps.rescheduled`), and the best look-ahead of the last step
is returned; here each particle of x0 has a budget of its own, and what is returned has taken all
steps.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.looking import Sighted, look
from steer.samplers.sde import NoiseLevel, Transition, euler_maruyama, noise_level, separating_level

__all__ = ["RolloverBudgetForcing"]


class Searching(NamedTuple):
    """States x (B, *shape), their values and rewards; and of each particle, (B,): record and
    proposals it may draw.
    """

    here: Sighted
    record: Tensor
    quota: Tensor


class RolloverBudgetForcing(Stepwise[Searching]):
    """Every particle searches for itself; those that have found wait for the others of its step at
    no cost.

    A maximiser that takes any reward: no law, no log Z. Chance is drawn per prompt, so how long a
    particle searches
    changes the draws (not their law) of others of its own prompt, and of no other.

    Args:
        steps: Euler-Maruyama steps.
        quota: proposals per step, before what rolls over; with one it is Sde, watched.
        lookahead: where x_t will land; Denoiser(), as in the paper, by default.
        eps: the noise level, as in Sde.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

    The trace has "proposals" (T, P, N), how many each particle drew.

    Raises:
        ValueError: settings out of range; when called, without a reward or with a step before the
            last without noise.
    """

    claim = "maximiser"

    def __init__(
        self,
        steps: int = 10,
        quota: int = 10,
        lookahead: Lookahead | None = None,
        *,
        eps: float | NoiseLevel = 1.0,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if quota < 1:
            raise ValueError(
                f"RolloverBudgetForcing needs a quota of at least one proposal per step; got quota={quota}"
            )
        self.quota, self.lookahead, self.eps = quota, lookahead or Denoiser(), eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Searching:
        if run.tilt is None:
            raise ValueError(
                "RolloverBudgetForcing follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        here = Sighted(x, *look(self, run, x, 0.0, self.lookahead))
        return Searching(here, here.value, torch.full((len(x),), self.quota, device=run.device))

    def step(self, run: Run, now: Searching, s: float, t: float) -> Searching:
        eps, here = separating_level(self.eps, run, s, t, "proposals"), now.here
        move = euler_maruyama(self, run, here.x, s, t, eps, here.velocity)
        quota = now.quota if move.std > 0 else torch.ones_like(now.quota)
        enough = torch.full_like(now.record, torch.inf) if self.last_chance(run, t) else now.record
        here, drawn = self.search(run, move, t, quota, enough)
        run.record(t=t, reward=run.by_prompt(here.reward).mean(1), proposals=run.by_prompt(drawn))
        return Searching(
            here, torch.maximum(now.record, here.value), now.quota - drawn + self.quota
        )

    def finish(self, run: Run, last: Searching) -> Result:
        value = run.by_prompt(last.here.value)
        return Result(run.by_prompt(last.here.x), torch.zeros_like(value), None, value)

    # --- its parts -------------------------------------------------------------------------------
    def last_chance(self, run: Run, t: float) -> bool:
        """Whether no later step has noise."""
        return t == 1.0 or (t == self.times()[-2] and noise_level(self.eps, run, t, 1.0) == 0)

    def search(
        self, run: Run, move: Transition, t: float, quota: Tensor, enough: Float[Tensor, "b"]
    ) -> tuple[Sighted, Tensor]:
        """The best proposal of each particle, and how many it drew: until one is worth more than
        `enough`, or the quota.
        """
        best = self.propose(run, move, t, torch.arange(len(enough), device=run.device))
        drawn = torch.ones_like(quota)
        while len(rows := ((drawn < quota) & (best.value <= enough)).nonzero()[:, 0]):
            new = self.propose(run, move, t, rows)
            best.take(new, new.value > best.value[rows], rows)
            drawn[rows] += 1
        return best, drawn

    def propose(self, run: Run, move: Transition, t: float, rows: Int[Tensor, "m"]) -> Sighted:
        """One proposal for each of these rows of the batch."""
        mean = move.mean[rows]
        x = mean + move.std * run.normal(mean, rows)
        return Sighted(x, *look(self, run, x, t, self.lookahead, rows))
