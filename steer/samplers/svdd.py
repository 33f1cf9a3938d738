"""SVDD, soft value-based decoding: of M proposals for its next state, each particle takes one by
the softmax of their values.

With V_t = scale * r at the look-ahead and x^1 ... x^M drawn from the model's own transition q(. |
x_s), the next state is x^m with probability exp(V_t(x^m)) / sum_j exp(V_t(x^j)): self-normalised
sampling from q(x_t | x_s) exp(V_t(x_t)). Particles do not meet, and no gradient is taken, so any
reward will do.

The tilted law has these transitions if q is the reverse of the noising process, as DDPM's is, and V
its exact value. So the noise level is memoryless by default, eps_t = c_t = sigma^2 alpha' / alpha -
sigma sigma', with which x_t looks back on the data alone. Under less noise it still depends on x_0,
E[exp(scale r) | x_t] is another, and no M mends that. At finite M a short step has (1 - 1/M) of the
exact pull, however many steps there are. Euler-Maruyama steps of this much noise are wide at first:
on the path Linear() the variance after k steps is about 1 + 1/k times what it should be, which
later steps forget.

References: Li et al. 2024, arXiv 2408.08252 (SVDD-PM, whose value is the reward of the denoiser);
Domingo-Enrich et al. 2024,
arXiv 2409.08861 (memoryless noise).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Run, Stepwise
from steer.samplers.looking import Sighted, look
from steer.samplers.sde import NoiseLevel, Transition, euler_maruyama, noise_level, separating_level

__all__ = ["Svdd"]


class Svdd(Stepwise[Sighted]):
    """Independent particles, each the best of M by a soft choice at every step. Biased: see below.

    Its law tends to the tilted one as proposals and steps grow if the values are exact, or are
    estimates whose exponential is unbiased (Posterior(), any number of draws), and eps is left at
    None. With finite M it is tilted too little; with the denoiser, whose value is exact for linear
    rewards of normal data alone, the bias stays.

    A step costs M look-aheads, each for as many samples at a time as there are particles, and one
    evaluation for its transition; not that one where the look-ahead shares its velocity, as
    Denoiser() does.

    Args:
        steps: from t = 0 to t = 1.
        proposals: M; with one it is the plain dynamics, watched.
        lookahead: where x_t will land; Denoiser(), as in the paper, by default.
        eps: None for the memoryless noise, c_t at the end of each step but the last; or a noise
            level as in Sde.
        max_batch: as in Stepwise. A look-ahead that draws gets other draws of the same law with
            another.

    Raises:
        ValueError: settings out of range; when called, without a reward or with a step that tells
            no proposals apart.
    """

    claim = "biased"

    def __init__(
        self,
        steps: int = 50,
        proposals: int = 10,
        lookahead: Lookahead | None = None,
        *,
        eps: float | NoiseLevel | None = None,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if proposals < 1:
            raise ValueError(f"Svdd needs at least one proposal; got proposals={proposals}")
        self.proposals, self.lookahead, self.eps = proposals, lookahead or Denoiser(), eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Sighted:
        if run.tilt is None:
            raise ValueError(
                "Svdd follows a reward; pass tilt=steer.Tilt(reward), or sample with Sde"
            )
        nothing = x.new_zeros(len(x), dtype=torch.float64)
        return Sighted(x, nothing, nothing)

    def step(self, run: Run, now: Sighted, s: float, t: float) -> Sighted:
        now = self.choose(
            run, euler_maruyama(self, run, now.x, s, t, self.level(run, s, t), now.velocity), t
        )
        run.record(t=t, reward=run.by_prompt(now.reward).mean(1))
        return now

    def finish(self, run: Run, last: Sighted) -> Result:
        value = run.by_prompt(last.value)
        return Result(run.by_prompt(last.x), torch.zeros_like(value), None, value)

    # --- its parts -------------------------------------------------------------------------------
    def level(self, run: Run, s: float, t: float) -> float:
        """eps of the step from s to t: c_t at its end, none at t = 1; or as given."""
        if self.eps is None:
            return float(run.flow_map.schedule.c_t(t)) if t < 1 else 0.0
        if self.proposals == 1:
            return noise_level(self.eps, run, s, t)
        return separating_level(self.eps, run, s, t, "proposals")

    def choose(self, run: Run, move: Transition, t: float) -> Sighted:
        """Proposals one after another; the largest V + G, G Gumbel noise, is a draw from the
        softmax of V.
        """
        chosen = self.propose(run, move, t)
        if self.proposals == 1 or move.std == 0:
            return chosen
        best, rows = chosen.value + gumbel(run), torch.arange(len(chosen.x), device=run.device)
        for _ in range(self.proposals - 1):
            new = self.propose(run, move, t)
            score = new.value + gumbel(run)
            chosen.take(new, score > best, rows)
            best = torch.maximum(best, score)
        return chosen

    def propose(self, run: Run, move: Transition, t: float) -> Sighted:
        """One proposal for each particle."""
        x = move.draw(run)
        return Sighted(x, *look(self, run, x, t, self.lookahead))


def gumbel(run: Run) -> Float[Tensor, "b"]:
    """-log of an exponential draw for every sample, in float64, each prompt's from its own
    generator.
    """
    empty = torch.empty(run.prompts, run.particles, dtype=torch.float64, device=run.device)
    return -torch.cat(
        [row.exponential_(generator=g) for row, g in zip(empty, run.generators, strict=True)]
    ).log()
