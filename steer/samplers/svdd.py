"""SVDD, soft value-based decoding: each step samples one of M proposals by their values' softmax.

With V_t = scale * r at the look-ahead and x^1 ... x^M drawn from the model's own transition q(. |
x_s), the next state is x^m with probability exp(V_t(x^m)) / sum_j exp(V_t(x^j)): self-normalised
sampling from q(x_t | x_s) exp(V_t(x_t)). Particles do not meet, and no gradient is taken, so any
reward will do.

The tilted law has these transitions if q is the reverse of the noising process, as DDPM's is, and V
its exact value. So the noise level is memoryless by default, eps_t = c_t = sigma^2 alpha' / alpha -
sigma sigma', with which x_t looks back on the data alone. Under less noise it still depends on x_0,
E[exp(scale r) | x_t] differs, and the bias does not vanish with M. At finite M a short step has (1
- 1/M) of the exact pull, however many steps there are. Euler-Maruyama steps of this much noise are
wide at first: on the path Linear() the variance after k steps is about 1 + 1/k times what it should
be, which later steps forget.

References: Li et al. 2024, arXiv 2408.08252 (SVDD-PM, whose value is the reward of the denoiser);
Domingo-Enrich et al. 2024, arXiv 2409.08861 (memoryless noise).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Denoiser, Lookahead
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.proposals import Chosen
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, Transition, euler_maruyama, noise_level, separating_level

__all__ = ["Svdd"]


class Svdd(Stepwise[Chosen]):
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
        proposals: M; with one the dynamics are plain.
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
        self.proposals = proposals
        self.lookahead = lookahead or Denoiser()
        self.eps = eps

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Chosen:
        run.require_tilt(self, "Sde")
        nothing = x.new_zeros(len(x), dtype=torch.float64)
        return Chosen(x, nothing, nothing)

    def step(self, run: Run, now: Chosen, s: float, t: float) -> Chosen:
        eps = self.noise(run, s, t)
        now = self.choose(run, euler_maruyama(run, now.x, s, t, eps, now.velocity), t)
        run.record(t=t, reward=run.by_prompt(now.reward).mean(1))
        return now

    def finish(self, run: Run, last: Chosen) -> Result:
        return unweighted_result(run, last.x, run.by_prompt(last.value))

    # --- its phases -----------------------------------------------------------------------------
    def noise(self, run: Run, s: float, t: float) -> float:
        """Evaluates eps for the step: c_t at its end and none at t = 1, or as given."""
        if self.eps is None:
            return float(run.flow_map.schedule.c_t(t)) if t < 1 else 0.0
        if self.proposals == 1:
            return noise_level(self.eps, run, s, t)
        return separating_level(self.eps, run, s, t, "proposals")

    def choose(self, run: Run, move: Transition, t: float) -> Chosen:
        """Draws from the softmax of V over the proposals: the largest V + Gumbel noise."""
        chosen = self.propose(run, move, t)
        if self.proposals == 1 or move.std == 0:
            return chosen
        score = chosen.value + gumbel(run)
        for _ in range(self.proposals - 1):
            new = self.propose(run, move, t)
            new_score = new.value + gumbel(run)
            chosen = chosen.replaced(new, new_score > score)
            score = torch.maximum(score, new_score)
        return chosen

    def propose(self, run: Run, move: Transition, t: float) -> Chosen:
        """Draws one proposal for each particle and looks ahead from it."""
        x = move.draw(run)
        ahead = run.value(self.lookahead, x, t)
        return Chosen(x, ahead.value, ahead.reward, ahead.velocity)


def gumbel(run: Run) -> Float[Tensor, "b"]:
    """Draws Gumbel noise for every sample, in float64, each prompt's from its own generator."""
    empty = torch.empty(run.prompts, run.particles, dtype=torch.float64, device=run.device)
    draws = [
        row.exponential_(generator=generator)
        for row, generator in zip(empty, run.generators, strict=True)
    ]
    return -torch.cat(draws).log()
