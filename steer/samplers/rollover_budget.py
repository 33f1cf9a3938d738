"""RBF, rollover budget forcing: proposals until one improves, the rest of the quota saved.

Each step from s to t has a quota of proposals for the next state, drawn from the noisy dynamics one
by one. The first whose value V_t = scale * r at the look-ahead exceeds the record r*, the highest
seen so far (at first that of the noise), is taken at once, and what is left of the quota rolls over
to the next step. If none exceeds it, the best of them is taken. The record stays where it is then,
as in the authors' code: it is not the value of the state.

In the last step with noise the whole quota is spent, as in the authors' code, and the best taken.
So the budget is always used up: quota * (steps - 1) + 1 proposals for a particle, the last,
noiseless step having one.

Reference: Kim et al. 2025, arXiv 2503.19385. There one particle is followed, from the best of
several starts, on a variance-preserving path (here `steer.maps.rescheduled`), and the best
look-ahead of the last step is returned; here each particle of x0 has a budget of its own, and what
is returned has taken all steps.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.proposals import Chosen
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, Transition, euler_maruyama, noise_level, separating_level

__all__ = ["RolloverBudgetForcing"]


class Searching(NamedTuple):
    """The state of the search.

    Attributes:
        here: the proposals taken, (B, ...).
        record: the highest value each particle has seen, (B,).
        quota: proposals it may draw in the next step, (B,).
    """

    here: Chosen
    record: Tensor
    quota: Tensor


class RolloverBudgetForcing(Stepwise[Searching]):
    """Independent search of every particle with a shared clock. A maximiser: no law, no log Z.

    Takes any reward. Particles that have found an improvement wait for the others of their step at
    no cost. Randomness is drawn per prompt, so how long a particle searches changes the draws (not
    their law) of others of its own prompt, and of no other prompt.

    The trace has "proposals" (T, P, N), how many each particle drew.

    Args:
        steps: Euler-Maruyama steps.
        quota: proposals per step, before what rolls over; with one the dynamics are those of Sde.
        lookahead: where x_t will land; Denoiser(), as in the paper, by default.
        eps: the noise level, as in Sde.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

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
                "RolloverBudgetForcing needs a quota of at least one proposal per step;"
                f" got quota={quota}"
            )
        self.quota = quota
        self.lookahead = lookahead or Denoiser()
        self.eps = eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Searching:
        run.require_tilt(self, "Sde")
        ahead = run.value(self.lookahead, x, 0.0)
        here = Chosen(x, ahead.value, ahead.reward, ahead.velocity)
        quota = torch.full((len(x),), self.quota, device=run.device)
        return Searching(here, ahead.value, quota)

    def step(self, run: Run, now: Searching, s: float, t: float) -> Searching:
        here = now.here
        eps = separating_level(self.eps, run, s, t, "proposals")
        move = euler_maruyama(run, here.x, s, t, eps, here.velocity)
        quota = now.quota if move.std > 0 else torch.ones_like(now.quota)
        last = self.is_last_with_noise(run, t)
        enough = torch.full_like(now.record, torch.inf) if last else now.record
        here, drawn = self.search(run, move, t, quota, enough)
        run.record(t=t, reward=run.by_prompt(here.reward).mean(1), proposals=run.by_prompt(drawn))
        record = torch.maximum(now.record, here.value)
        return Searching(here, record, now.quota - drawn + self.quota)

    def finish(self, run: Run, last: Searching) -> Result:
        return unweighted_result(run, last.here.x, run.by_prompt(last.here.value))

    # --- its phases -----------------------------------------------------------------------------
    def is_last_with_noise(self, run: Run, t: float) -> bool:
        """Whether no step after t has noise."""
        return t == 1.0 or (t == self.times()[-2] and noise_level(self.eps, run, t, 1.0) == 0)

    def search(
        self, run: Run, move: Transition, t: float, quota: Tensor, enough: Float[Tensor, "b"]
    ) -> tuple[Chosen, Int[Tensor, "b"]]:
        """Draws proposals until one is worth more than `enough`, or the quota is used up.

        Returns the best proposal of each particle, and how many it drew.
        """
        chosen = self.propose(run, move, t, torch.arange(len(enough), device=run.device))
        drawn = torch.ones_like(quota)
        while True:
            searching = ((drawn < quota) & (chosen.value <= enough)).nonzero()[:, 0]
            if not len(searching):
                return chosen, drawn
            new = self.propose(run, move, t, searching)
            chosen = chosen.replaced(new, new.value > chosen.value[searching], searching)
            drawn[searching] += 1

    def propose(self, run: Run, move: Transition, t: float, indices: Int[Tensor, "m"]) -> Chosen:
        """Draws one proposal for each of these samples of the batch and looks ahead from it."""
        mean = move.mean[indices]
        x = mean + move.std * run.normal(mean, indices)
        ahead = run.value(self.lookahead, x, t, indices=indices)
        return Chosen(x, ahead.value, ahead.reward, ahead.velocity)
