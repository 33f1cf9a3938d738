"""The noise-space tilt: the noise is moved so that a frozen map carries it to the tilted law.

    L = E[1/2 |f(x0)|^2 + tr J - log|det(I + J)| - scale r(g(x0 + f(x0)))],      J = grad f(x0),

with f and g as in `HyperNoise`. L + log Z is the Kullback-Leibler divergence of the law of x0 +
f(x0) from the tilted noise p_0 exp(scale r(g)) / Z (E tr J = E x0 . f, by Stein's identity), so
that L >= -log Z, with equality at the tilt only; and g carries the tilted noise to the tilt of
its own law, whatever map g is. A loss below -log Z shows that x0 + f(x0) folds the noise over.

The determinant takes J in full, one derivative of both maps for each dimension. In more dimensions
than `exact_up_to` the volume term is the series

    tr J - log|det(I + J)| = 1/2 tr J^2 - 1/3 tr J^3 + ...,

cut after `order` and estimated by a probe e of random signs, E e.J^n e = tr J^n: near the tilt for
a small J. On g(y) = m + s y with r = -k/2 (x - c)^2 at k s^2 = 1 the standard deviation is .500 s
without it (HyperNoise), .667 s at order 2, .697 s at order 3 and .707 s exactly. Odd orders fall
without bound where J has large eigenvalues; order 2 does not for linear f.

Reference: Eyring et al. 2025, arXiv 2508.09968 (who derive L and train it without its volume
term).
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import AtLeast, Count
from steer.conditions import pick
from steer.flow_map import Cond
from steer.maps import NoiseTilted
from steer.training.derivatives import Derivative, ForwardMode
from steer.tuning.hyper_noise import HyperNoise
from steer.tuning.objective import TuningClaim

__all__ = ["NoiseTilt"]


class NoiseTilt(HyperNoise):
    """Moves the noise to the tilted noise; exact in few dimensions, near in many.

    Args:
        jumps: as in HyperNoise.
        exact_up_to: dimensions of a sample up to which the determinant is computed; 0 for the
            series in any.
        order: of the series, one derivative of both maps each.
        derivative: how they are taken; forward mode by default.
    """

    truncated: Tensor

    def __init__(
        self,
        jumps: Count = 1,
        *,
        exact_up_to: Annotated[int, AtLeast(0)] = 16,
        order: Annotated[int, AtLeast(2)] = 2,
        derivative: Derivative | None = None,
    ):
        super().__init__(jumps)
        self.exact_up_to = exact_up_to
        self.order = order
        self.derivative = derivative or ForwardMode()
        self.register_buffer("truncated", torch.tensor(exact_up_to == 0))

    @property
    def claim(self) -> TuningClaim:  # type: ignore[override]
        """ "near" once it was called on samples of more dimensions than `exact_up_to`."""
        return "near" if bool(self.truncated) else "exact"

    def displaced(
        self,
        tilted: NoiseTilted,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        truncated = x0[0].numel() > self.exact_up_to
        self.truncated.fill_(truncated)
        return (
            self.by_series(tilted, x0, cond, generator)
            if truncated
            else self.by_determinant(tilted, x0, cond)
        )

    def by_determinant(
        self, tilted: NoiseTilted, x0: Float[Tensor, "b *shape"], cond: Cond
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """Computes f and tr J - log|det(I + J)|, from a copy of the batch for each dimension."""
        n, d = len(x0), x0[0].numel()
        copies = torch.arange(n, device=x0.device).repeat(d)
        identity = torch.eye(d, dtype=x0.dtype, device=x0.device)
        along = identity.repeat_interleave(n, 0).view(d * n, *x0.shape[1:])
        many = pick(cond, copies)
        f, columns = self.derivative(
            lambda x: tilted.displacement(x, many), (x0[copies],), (along,)
        )
        jacobian = columns.reshape(d, n, d).permute(1, 2, 0)
        jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
        trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
        return f[:n], trace - torch.linalg.slogdet(jacobian + identity).logabsdet

    def by_series(
        self,
        tilted: NoiseTilted,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """Computes f and an unbiased estimate of the series up to `order`."""
        signs = torch.randint(2, x0.shape, generator=generator, device=x0.device)
        probe = power = 2 * signs.to(x0.dtype) - 1
        volume = x0.new_zeros(len(x0), dtype=torch.promote_types(x0.dtype, torch.float32))
        for n in range(1, self.order + 1):
            f, power = self.derivative(lambda x: tilted.displacement(x, cond), (x0,), (power,))
            if n > 1:
                trace = (probe * power).to(volume.dtype).flatten(1).sum(1)
                volume = volume + (-1) ** n * trace / n
        return f, volume
