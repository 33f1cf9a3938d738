"""Value-gradient matching: regression of the velocity on the gradient of a look-ahead's value.

    L = E |u_{t,t}(x_t) - sg[b_base(x_t) + c_t grad V_t(x_t)]|^2,
    V_t(x) = log sum_k w_k exp(scale r(z_k)),

with (z_k, w_k) the guesses of a look-ahead from x_t on the frozen base, and x_t made of its
samples, or of the map's own. With the exact value it rests at the tilted velocity. The denoiser,
one guess, replaces the value by the reward of the posterior mean: a bias that does not vanish with
training. A finite number of posterior draws is biased too, by the logarithm, as 1 / draws (but not
`MetaFlowMap`, which needs no logarithm). The jump to data diverges: its slope does not vanish
toward t = 0, where c_t is infinite, so it is refused.

Reference: Holderrieth et al. 2026, arXiv 2602.05993 (values by look-ahead).
"""

from typing import Any

import torch
from torch import Tensor

from steer.annotations import Count
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import expand
from steer.lookahead import Denoiser, Lookahead, MapJump
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, Renoised
from steer.tuning.objective import GRADIENT_FREE, TuningClaim, require_gradient
from steer.value import Query, Value

__all__ = ["ValueGradient"]


class ValueGradient(DiagonalTuning):
    """Regression on the base's velocity plus c_t times the gradient of a look-ahead's value.

    Args:
        sampler, noisings, more: as in DiagonalTuning.
        lookahead: where x_t will land; Denoiser() by default.
        on_policy: noise the map's own samples instead of the base's.

    Raises:
        ValueError: a MapJump, which diverges; when called, a reward without a gradient.
    """

    claim: TuningClaim = "near"
    needs_gradient = True

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 1,
        *,
        lookahead: Lookahead | None = None,
        on_policy: bool = True,
        **more: Any,
    ):
        super().__init__(sampler, noisings, **more)
        self.lookahead = lookahead or Denoiser()
        if isinstance(self.lookahead, MapJump):
            raise ValueError(
                "the value of a jump to data has a slope at t = 0, where its coefficient is"
                " infinite; take Denoiser(), or draws such as Glass(8), or tune with Direct"
            )
        self.on_policy = on_policy

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        require_gradient(tilt)

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return flow_map if self.on_policy else base

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        t = base.schedule.inside(seen.t)
        value = Value(tilt, self.lookahead)
        query = Query(base, seen.x_t, t, seen.cond, generator)
        found = value.look(query, velocity=True, gradient=True, instead=GRADIENT_FREE)
        assert found.gradient is not None
        assert found.velocity is not None
        slope = expand(base.schedule.c_t(t), seen.x_t) * found.gradient
        u = flow_map.velocity(seen.x_t, t, seen.cond)
        return mean_square(u - found.velocity - slope), {"value": found.value.mean()}
