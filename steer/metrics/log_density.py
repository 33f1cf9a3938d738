"""The exact log-density of a model's samples, from the determinants of the maps that draw them.

Noise is carried to data by a composition of smooth maps: one jump, several, or the steps of an ODE
solver. With J_k the Jacobian of the k-th,

    log q(x) = log N(x0; 0, I) - sum_k log |det J_k|,

which is the density of the sampler as it is used, not of a limit of small steps. Exact where the
composition is one to one; where it folds, one branch of q is seen, which is less than q. A fold
turns the orientation, the sign of prod_k det J_k, so that orientations of both signs tell of one.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.solvers import Heun

__all__ = ["Carried", "carried", "heun_steps", "jumps"]

Move = Callable[[Tensor], Tensor]


class Carried(NamedTuple):
    """Noise carried to data.

    Attributes:
        x: the samples (b, d).
        log_q: their log-density (b,).
        orientation: (b,), -1 or 1.
    """

    x: Float[Tensor, "b d"]
    log_q: Float[Tensor, "b"]
    orientation: Float[Tensor, "b"]

    @property
    def folded(self) -> float:
        """The share of samples with the rarer orientation, 0 where the map is one to one."""
        share = float((self.orientation < 0).double().mean())
        return min(share, 1 - share)


def jumps(flow_map: FlowMap, number: int, cond: Cond = None) -> list[Move]:
    """Lists the maps of sampling by equal jumps, from noise on."""
    return [
        lambda x: flow_map.from_noise(x, cond),
        *(lambda x, s=s, t=t: flow_map(x, s, t, cond) for s, t in pairwise(grid(number))),
    ]


def heun_steps(flow_map: FlowMap, number: int, cond: Cond = None) -> list[Move]:
    """Lists the maps of sampling by Heun steps along the velocity, from noise on."""

    def step(x: Tensor, s: float, h: float) -> Tensor:
        times = torch.full((len(x),), s, dtype=torch.float64)
        return Heun().step(
            lambda x, t: flow_map.velocity(x, t, cond), x, times, torch.full_like(times, h)
        )

    return [
        lambda x: flow_map.from_noise(x, cond),
        *(lambda x, s=s, t=t: step(x, s, t - s) for s, t in pairwise(grid(number))),
    ]


def grid(number: int) -> list[float]:
    """Lists equal times from 0 to 1."""
    return torch.linspace(0, 1, number + 1, dtype=torch.float64).tolist()


def carried(moves: Sequence[Move], x0: Float[Tensor, "b d"]) -> Carried:
    """Carries standard normal noise through maps, and returns the samples with their log-density.

    Each map is differentiated once per dimension.
    """
    x = x0.double()
    log_q = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    orientation = torch.ones_like(log_q)
    for move in moves:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = move(x)
            rows = [
                torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0]
                for k in range(x.shape[1])
            ]
        determinant = torch.stack(rows, dim=1).slogdet()
        log_q = log_q - determinant.logabsdet
        orientation = orientation * determinant.sign
        x = y.detach()
    return Carried(x, log_q, orientation)
