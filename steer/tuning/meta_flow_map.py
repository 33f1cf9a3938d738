"""Meta-flow-map tuning: off-policy regression on posterior draws; exact, without simulation.

With x_t made of samples of the base (or of data), z = Z(e; x_t) a draw from the base's p(x1 | x_t)
that is differentiable in x_t, and W = exp(scale r(z) - c),

    L = E |u_{t,t}(x_t) - sg[b_base - (W - 1)(u_{t,t} - b_base) + c_t grad_x W]|^2

rests where u = b_base + c_t E[grad W] / E[W] = b_base + c_t grad V, the velocity of the tilted
distribution, for any law of x_t and any c; c_t is half the squared noise of the memoryless SDE. W >
0 keeps it stable. The clean sample that x_t is made of is such a draw too, and with it

    sg[b_base + (W - 1)(I_t' - u_{t,t})]

rests at the same place without a gradient of the reward. The first target is noisy early, where a
draw hardly depends on x_t but c_t is large, the second late, where I_t' is noise; any mixture
keeps the fixed point.

A deterministic guess in the place of Z (the denoiser, or the jump to data) does not rest there: its
slope is not that of a draw.

Reference: Potaptchik et al. 2026, arXiv 2601.14430 (Meta Flow Maps).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from steer.annotations import Count
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import expand
from steer.lookahead import Glass, Lookahead
from steer.resampling import effective_sample_size
from steer.samplers import Sampler
from steer.tilt import Tilt
from steer.training.base import mean_square
from steer.tuning.diagonal import DiagonalTuning, LogMeanExp, Renoised
from steer.tuning.objective import GRADIENT_FREE, TuningClaim, require_gradient
from steer.value import Query, Value

__all__ = ["MetaFlowMap"]


class MetaFlowMap(DiagonalTuning):
    """Regression on posterior draws weighted by exp(scale r); exact and off-policy.

    Args:
        sampler, noisings, more: as in DiagonalTuning; it draws from the base.
        lookahead: draws of p(x1 | x_t), differentiable; Glass(1), eight evaluations of the base,
            by default. `Posterior(1)` with a `posterior` map costs one.
        posterior: the map that draws, frozen and not saved; the base if None.
        gradient: the share of the target with the reward's gradient: "late", t^2 / (t^2 + (1 -
            t)^2), "always", or "never", which takes any reward and no look-ahead.

    Raises:
        ValueError: a look-ahead that does not draw; when called, a reward without a gradient where
            one is needed.
    """

    claim: TuningClaim = "exact"

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 1,
        *,
        lookahead: Lookahead | None = None,
        posterior: FlowMap | None = None,
        gradient: Literal["late", "always", "never"] = "late",
        **more: Any,
    ):
        super().__init__(sampler, noisings, **more)
        self.lookahead = lookahead or Glass(1)
        if not self.lookahead.random:
            raise ValueError(
                "MetaFlowMap needs draws from p(x1 | x_t), such as Glass(1) or Posterior(1);"
                f" {type(self.lookahead).__name__} is one guess, whose slope is another"
            )
        self.gradient = gradient
        self.posterior = None if posterior is None else (posterior,)  # hidden from torch
        self.frozen = self.posterior or ()
        self.log_normaliser = LogMeanExp()

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return self.gradient != "never"

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        if self.needs_gradient:
            require_gradient(tilt)
        if self.posterior is not None and self.posterior[0].schedule != base.schedule:
            raise ValueError(
                f"the posterior map is on the path {self.posterior[0].schedule}, the base on"
                f" {base.schedule}; see steer.Rescheduled"
            )

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return base

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        u = flow_map.velocity(seen.x_t, seen.t, seen.cond)
        with torch.no_grad():
            reference = base.velocity(seen.x_t, seen.t, seen.cond)
            normaliser = self.log_normaliser(seen.clean.tilt, seen.clean.cond)
            weight = torch.exp(seen.clean.tilt - normaliser)
            target = reference + (seen.shared(weight) - 1) * (seen.path_velocity - u)
            if self.needs_gradient:
                share = expand(self.share(seen.t), u)
                drawn = self.by_gradient(tilt, base, seen, normaliser, u - reference, generator)
                target = target + share * (reference + drawn - target)
        ess = effective_sample_size((seen.clean.tilt - normaliser)[None])[0] / len(weight)
        return mean_square(u - target), {"ess": ess}

    def share(self, t: Tensor) -> Tensor:
        """Computes the share of the target with a gradient."""
        return torch.ones_like(t) if self.gradient == "always" else t**2 / (t**2 + (1 - t) ** 2)

    def by_gradient(
        self,
        tilt: Tilt,
        base: FlowMap,
        seen: Renoised,
        normaliser: Tensor,
        change: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Computes c_t grad W - (W - 1) change, W of a draw."""
        model = base if self.posterior is None else self.posterior[0]
        t = base.schedule.inside(seen.t)
        query = Query(model, seen.x_t, t, seen.cond, generator)
        value = Value(tilt, self.lookahead).look(query, gradient=True, instead=GRADIENT_FREE)
        assert value.gradient is not None
        w = torch.exp(value.value - normaliser[seen.source]).to(change.dtype)
        of_gradient = base.schedule.c_t(t).to(change.dtype) * w
        return expand(of_gradient, change) * value.gradient - expand(w - 1, change) * change
