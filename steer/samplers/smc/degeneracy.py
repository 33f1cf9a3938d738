"""What is said when the weights of a population come down to one particle."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from steer.resampling import effective_sample_size
from steer.samplers.base import Run

ALONE = 1.01  # an effective sample size below which one particle has all the weight


class WeightCollapse(UserWarning):
    """All of a prompt's weight is on one particle: averages by the weights are then that
    particle's, and log Z is noise.
    """


def warn_of_collapse(run: Run, log_w: Float[Tensor, "p n"], t: float) -> None:
    """Warns, once in a run, of the first prompt whose weights have come down to one particle,
    naming it and the time.
    """
    if run.collapsed or run.particles < 3:
        return
    ess = effective_sample_size(log_w)
    alone = (ess < ALONE).nonzero()
    if not len(alone):
        return
    run.collapsed = True
    prompt = int(alone[0, 0])
    if ess[prompt] == 0:
        warnings.warn(
            f"at t = {t:.4g} every particle of prompt {prompt} breaks a constraint (reward -inf): all weights are zero and"
            " log Z is -inf; draw more particles, or replace the constraint by a steep finite reward",
            WeightCollapse,
            stacklevel=2,
        )
        return
    rows = log_w[prompt]
    best, second = rows.topk(2).values.tolist()
    sample = prompt * run.particles + int(torch.argmax(rows))
    warnings.warn(
        f"at t = {t:.4g} every weight of prompt {prompt} but that of sample {sample} vanishes (the next is"
        f" exp(-{best - second:.3g}) of it): lower tilt.scale, draw more particles, or take BestOfN, which needs no weights",
        WeightCollapse,
        stacklevel=2,
    )
