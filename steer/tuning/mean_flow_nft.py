"""MeanFlowNFT: DiffusionNFT for the jumps of a two-time map, by the velocity that each implies.

    V = u_{s,t}(x_s) - (t - s) d,      d = sg[d_s u^old_{s,t} + grad u^old_{s,t} I_s'](x_s),

and the loss of `DiffusionNft` on V and V_old, which share d. By the Eulerian identity E[V | x_s] =
b_s at a flow map, for every t, so the jumps may be contrasted on I_s' as the velocity is. At s = t
V is the velocity, and the loss that of DiffusionNFT.

Without KL the minimum of a round is

    u_{s,t} = u^old_{s,t} + 1 / (c beta) grad X^old_{s,t} Cov_old(A, I_s' | x_s),

since V_old holds I_s' itself, and I + (t - s) grad u is grad X. It carries the change of the
velocity at s to t, and leaves out what changes on the way: a flow map of the changed velocity to
first order in the gap alone. Hence small rounds, and a loss that keeps a map a map (`off_weight`).

Reference: MeanFlowNFT, 2026, arXiv 2607.15273.
"""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, AtMost
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import expand
from steer.samplers import Sampler
from steer.training.derivatives import Derivative, ForwardMode
from steer.tuning.diagonal import Renoised
from steer.tuning.diffusion_nft import DiffusionNft

__all__ = ["MeanFlowNft"]

Share = Annotated[float, AtLeast(0), AtMost(1)]


class MeanFlowNft(DiffusionNft):
    """DiffusionNFT on the velocity that a jump implies; a maximiser that trains jumps directly.

    Takes any reward.

    Args:
        sampler, per_prompt, more: as in DiffusionNft.
        on_diagonal: part of the noisy samples with t = s.
        to_data: part with t = 1; the others have t uniform in (s, 1).
        derivative: how d is taken; in forward mode by default. As published,
            FiniteDifference(.005).

    Raises:
        ValueError: settings out of range.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        per_prompt: Annotated[int, AtLeast(2)] = 8,
        *,
        on_diagonal: Share = 0.5,
        to_data: Share = 0.25,
        derivative: Derivative | None = None,
        **more: Any,
    ):
        super().__init__(sampler, per_prompt, **more)
        if on_diagonal + to_data > 1:
            raise ValueError(
                "on_diagonal and to_data are parts of one batch, at most 1 together;"
                f" got on_diagonal={on_diagonal}, to_data={to_data}"
            )
        self.on_diagonal = on_diagonal
        self.to_data = to_data
        self.derivative = derivative or ForwardMode()

    def ends(self, s: Float[Tensor, "m"], generator: torch.Generator) -> Float[Tensor, "m"]:
        """Draws the time t >= s that each noisy sample is taken to."""
        kind, share = torch.rand(2, len(s), generator=generator, device=s.device, dtype=s.dtype)
        t = torch.where(
            kind < self.on_diagonal + self.to_data, 1.0, torch.lerp(s, s.new_ones(()), share)
        )
        return torch.where(kind < self.on_diagonal, s, t)

    def velocities(
        self, flow_map: ResidualMap, base: FlowMap, seen: Renoised, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x, s, cond = seen.x_t, seen.t, seen.cond
        t = self.ends(s, generator)
        with torch.no_grad():
            old, d = self.derivative(
                lambda x, s: self.old.map.average_velocity(x, s, t, cond),
                (x, s),
                (seen.path_velocity, torch.ones_like(s)),
            )
            correction = expand(t - s, x) * d
            reference = None
            if self.kl > 0:
                reference = base.average_velocity(x, s, t, cond) - correction
        u = flow_map.average_velocity(x, s, t, cond)
        return u - correction, old - correction, reference
