"""Reward-weighted regression: flow matching on samples of the base, weighted by the tilt.

    L = E W |u_{t,t}(x_t) - I_t'|^2,      W = exp(scale r(z)) / Z,      z ~ p_1.

The minimiser is the velocity of the tilted distribution p_1 exp(scale r) / Z, since E[W I_t' | x_t]
/ E[W | x_t] is the mean of I_t' under it. The variance of W limits the scale: the samples that
count are a fraction ESS / n of those drawn.

References: Peters & Schaal 2007, ICML (reward-weighted regression); Fan et al. 2025, arXiv
2502.06061 (flow matching, in rounds of the model's own samples, which do not converge to the tilt
but maximise).
"""

from typing import Any

import torch
from torch import Tensor

from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.samplers.base import Claim
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, LogMeanExp, Renoised

__all__ = ["RewardWeighted"]


class RewardWeighted(DiagonalTuning):
    """Flow matching weighted by exp(scale r); exact for the tilted distribution of the base.

    Takes any reward. A condition's normalisation does not matter: it weighs prompts, and the
    minimiser of each is its own tilt.

    Args:
        jumps, noisings, more: as in DiagonalTuning; the base draws by as many jumps.
    """

    claim: Claim = "exact"

    def __init__(self, jumps: int = 4, noisings: int = 1, **more: Any):
        super().__init__(jumps, noisings, **more)
        self.log_normaliser = LogMeanExp()

    def draws_from(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return base

    def residual(
        self, flow_map: ResidualMap, base: FlowMap, seen: Renoised, cond: Cond
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = torch.exp(seen.tilt - self.log_normaliser(seen.tilt)).to(seen.x_t.dtype)
        u = flow_map.velocity(seen.x_t, seen.t, cond)
        ess = weight.sum() ** 2 / weight.square().sum().clamp_min(1e-30)
        squared = mean_square(u - seen.path_velocity)
        return weight[seen.source] * squared, {"ess": ess / len(weight)}
