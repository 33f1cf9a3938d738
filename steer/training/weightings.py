"""Weightings of the residuals, which range over decades in (s, t).

A squared loss is dominated by large residuals; a weighting says how much each counts.

    weighting(residual, s, t) -> what to average and minimise, (B,).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Adaptive", "Learned", "Plain", "Weighting"]


class Weighting(nn.Module, ABC):
    """Squared residuals (B,) at times s, t (B,) -> terms of the loss (B,)."""

    @abstractmethod
    def forward(
        self, residual: Float[Tensor, "b"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Weights the residuals."""


class Plain(Weighting):
    """No weighting."""

    def forward(self, residual: Tensor, s: Tensor, t: Tensor) -> Float[Tensor, "b"]:
        return residual


class Adaptive(Weighting):
    """sg[(L + eps)^-p] L: large residuals count for less. p = 1/2 is near a pseudo-Huber loss.

    It does not move a zero, but it moves the mean of noisy residuals: where the target is random
    given x (MeanFlow), the minimiser is no longer exactly the conditional mean (Geng et al. 2025,
    arXiv 2505.13447, use p = 1 all the same). In few dimensions it is far from it: on the
    checkerboard it costs MeanFlow more than a nat at 8 jumps (docs/results.md, 16).

    Args:
        p: power.
        eps: added to the residual, which is averaged over the entries of x.

    Raises:
        ValueError: a negative p, or an eps that is not positive.
    """

    def __init__(self, p: float = 1.0, eps: float = 1e-3):
        super().__init__()
        if p < 0 or not eps > 0:
            raise ValueError(f"Adaptive needs p >= 0 and eps > 0; got p={p} and eps={eps}")
        self.p = p
        self.eps = eps

    def forward(self, residual: Tensor, s: Tensor, t: Tensor) -> Float[Tensor, "b"]:
        return residual * (residual.detach() + self.eps) ** -self.p


class Learned(Weighting):
    """exp(-w) L + w, w_{s,t} a small network learned with the map.

    At its best w = log E[L | s, t], so that all pairs of times count alike. The weight depends on
    the times alone, so the minimiser in the map is unchanged.

    References: Karras et al. 2024, arXiv 2312.02696; for two times, Boffi et al. 2025, arXiv
    2505.18825.

    Args:
        features: cosines of each time that w reads.
    """

    powers: Tensor

    def __init__(self, features: int = 32):
        super().__init__()
        self.register_buffer("powers", torch.pi * torch.arange(features), persistent=False)
        self.linear = nn.Linear(2 * features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, residual: Tensor, s: Tensor, t: Tensor) -> Float[Tensor, "b"]:
        waves = torch.cat([torch.cos(time[:, None] * self.powers) for time in (s, t)], dim=1)
        w = self.linear(waves.to(self.linear.weight.dtype))[:, 0].to(residual.dtype)
        return torch.exp(-w) * residual + w
