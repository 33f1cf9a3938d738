"""What objectives that treat the map as a policy share: standardised advantages, a clipped ratio.

    A = clip((R - mean of the prompt) / (std + 1e-4)),      L = -min(rho A, clip(rho) A),

with R = scale * r. A standardised reward has no units: neither a constant added to the reward nor
the tilt's scale changes it, and such objectives cannot promise the tilt of a given scale.

References: Shao et al. 2024, arXiv 2402.03300 (group advantages); Schulman et al. 2017, arXiv
1707.06347 (the clipped ratio).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import prompts_of
from steer.flow_map import Cond
from steer.tilt import check_finite

SMALL = 1e-4
ADVICE = "an advantage needs finite rewards; clip the reward, or use RewardWeighted"


def standardised(
    tilt: Float[Tensor, "b"], cond: Cond, clip: float, of_batch: bool = False
) -> Float[Tensor, "b"]:
    """Subtracts the mean of each prompt's samples, divides by a deviation and clips at +-clip.

    The mean includes the sample itself, which shrinks what is learned from G samples of a prompt by
    (G - 1) / G at a known deviation. Zero for a prompt with one sample.

    Args:
        tilt: scale * r of each sample.
        cond: their conditions: samples of equal ones form a group.
        clip: the largest advantage.
        of_batch: divide by the standard deviation of the batch, not of each prompt.

    Raises:
        NonFiniteReward: a reward of -inf.
    """
    check_finite(tilt, "the reward", advice=ADVICE)
    prompt = prompts_of(cond, len(tilt)).to(tilt.device)
    number = prompt.bincount().to(tilt)
    group = torch.zeros_like(number)
    gap = tilt - (group.index_add(0, prompt, tilt) / number)[prompt]
    if of_batch:
        std = tilt.std(correction=0)
    else:
        std = (group.index_add(0, prompt, gap.square()) / number).sqrt()[prompt]
    return (gap / (std + SMALL)).clamp(-clip, clip)


def surrogate(
    log_ratio: Float[Tensor, "n"], advantage: Float[Tensor, "n"], clip: float
) -> Float[Tensor, "n"]:
    """Computes -min(rho A, clip(rho, 1 - clip, 1 + clip) A): no gain from a ratio beyond the clip.

    Where the ratio is 1 its gradient is -A grad log rho.
    """
    ratio = log_ratio.exp()
    advantage = advantage.to(ratio)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
