"""Best of N: draw N, keep the one the reward likes most. The baseline of every comparison."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.samplers.base import Claim, PromptKeys, Result, Sampler
from steer.tilt import Tilt

__all__ = ["BestOfN"]


class BestOfN(Sampler):
    """The best of each prompt's N particles, drawn by any other sampler. Needs no gradient of the
    reward.

    Its law is p_1 re-weighted by N F(r)^(N-1), F the distribution of rewards: log N - (N-1)/N nats
    from p_1 (Beirami et al. 2024, arXiv 2401.01879). Its cost per returned sample is N times the
    base sampler's.

    Args:
        base_sampler: what draws the candidates.
    """

    claim: Claim = "maximiser"

    def __init__(self, base_sampler: Sampler):
        if not isinstance(base_sampler, Sampler):
            got = f"a {type(base_sampler).__name__}"
            if name := getattr(base_sampler, "__name__", ""):
                got = f"the class {name}: build one, {name}()"
            raise ValueError(f"BestOfN takes a sampler; got {got}")
        self.base_sampler = base_sampler

    def __call__(
        self,
        flow_map: FlowMap,
        x0: Float[Tensor, "p n *shape"],
        tilt: Tilt | None = None,
        cond: Cond = None,
        generator: torch.Generator | None = None,
        prompt_keys: PromptKeys = None,
    ) -> Result:
        """As Sampler; x comes back as (prompts, 1, *shape)."""
        if tilt is None:
            raise ValueError("BestOfN needs a reward to choose by; pass tilt=steer.Tilt(reward)")
        drawn = self.base_sampler(flow_map, x0, tilt, cond, generator, prompt_keys)
        assert drawn.tilt is not None
        best = drawn.tilt.argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        x = drawn.x[rows, best][:, None]
        return replace(
            drawn,
            x=x,
            log_w=drawn.log_w.new_zeros(len(best), 1),
            log_z=None,
            tilt=drawn.tilt[rows, best][:, None],
            evaluations=drawn.evaluations.per(1 / drawn.x.shape[1]),
            claim=self.claim,
        )
