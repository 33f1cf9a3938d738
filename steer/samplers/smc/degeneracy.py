"""Warning of degenerate weights: an effective sample size of one particle."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from steer.resampling import effective_sample_size
from steer.samplers.run import Run

DEGENERATE = 1.01  # effective sample size below which one particle has all the weight


class WeightDegeneracy(UserWarning):
    """All of a prompt's weight is on one particle: weighted averages and log Z are noise."""


def warn_of_degeneracy(run: Run, log_w: Float[Tensor, "p n"], t: float) -> None:
    """Warns, once in a run, of the first prompt with degenerate weights, naming it and the time."""
    if run.degenerate or run.particles < 3:
        return
    ess = effective_sample_size(log_w)
    found = (ess < DEGENERATE).nonzero()
    if not len(found):
        return
    run.degenerate = True
    prompt = int(found[0, 0])
    if ess[prompt] == 0:
        warnings.warn(
            f"at t = {t:.4g} every particle of prompt {prompt} violates a constraint (reward -inf):"
            " all weights are zero and log Z is -inf; draw more particles, or replace the"
            " constraint by a steep finite reward",
            WeightDegeneracy,
            stacklevel=2,
        )
        return
    weights = log_w[prompt]
    best, second = weights.topk(2).values.tolist()
    sample = prompt * run.particles + int(torch.argmax(weights))
    warnings.warn(
        f"at t = {t:.4g} every weight of prompt {prompt} but that of sample {sample} vanishes (the"
        f" next is exp(-{best - second:.3g}) of it): lower tilt.scale, draw more particles, or use"
        " BestOfN, which needs no weights",
        WeightDegeneracy,
        stacklevel=2,
    )
