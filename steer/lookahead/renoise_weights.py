"""Importance weights for posterior draws by renoising x_t and one jump of a flow map.

With the rotation c, s, h of `steer.lookahead.glass_flow`, the point is x' = h' (c x_t / h + s e), e
~ N(0, I), at the time t' where alpha' / h' = c^2: noise added as the path adds it, as much more as
x_t has itself. Its jump z = X_{t',1}(x') knows nothing of x1, so it is no draw from the posterior,
but its density given x_t is known: that of x' there, carried along the flow as p_{t'} is. The
Jacobians of the two cancel, and

    p(z | x_t) / q(z | x_t) ~ N(x_t; alpha z, sigma^2) p_{t'}(x') / N(x'; h' c x_t / h, h'^2 s^2),

where only p_{t'} has to be found. Along the line from the mean of x' (e = 0) its log is an integral
of the score,

    log p_{t'}(x') = const - int_0^1 n_{t'}(h' (c x_t / h + a s e)) . e da / sqrt(1 + c^2),

taken by Gauss-Legendre nodes. Hence weighted means are exact in the limit of draws and nodes if
jumps follow the velocity. For normal data of mean 0 and variance 1 the weights are equal with one
node, and z is a draw. The variance of log w grows with the dimension: many draws in the plane are
few in an image. (The authors' public code weighs by the reward alone unless asked for the other
terms, which is biased at every number of draws.)

On a path with alpha_0 > 0, a t' below 0 is taken for 0, an error of alpha_0 or less.

Reference: Holderrieth et al. 2026, arXiv 2602.05993 (weighted Diamond Maps); the choice of t' is
ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.interpolant import expand
from steer.lookahead.glass_flow import Context, turn


def renoised(
    flow_map: FlowMap, context: Context, draws: int, nodes: int, generator: torch.Generator | None
) -> tuple[Float[Tensor, "k b *shape"], Float[Tensor, "k b"]]:
    """Draws z and its log weights, normalised over the draws; differentiable in x_t and t."""
    x = context.x_t
    schedule = context.schedule
    many = context.repeat(draws)
    e = torch.randn(draws, *x.shape, generator=generator, dtype=x.dtype, device=x.device)
    e = e.flatten(0, 1)
    c, s, h = turn(schedule, many.t)
    t = schedule.time_at(c**2, s * torch.sqrt(1 + c**2)).clamp(min=0)
    length = turn(schedule, t).h
    mean = expand(length * c / h, e) * many.x_t
    step = expand(length * s, e) * e
    z = flow_map.lookahead(mean + step, t, many.cond)
    known = torch.where(s == 0, torch.inf, s)  # at t = 1 all agree
    misfit = (many.x_t / expand(h, z) - expand(c, z) * z) / expand(known, z)
    fall = _against(flow_map, mean, step, t, many.cond, e, nodes) / torch.sqrt(1 + c**2)
    log_w = (_dot(e, e) - _dot(misfit, misfit)) / 2 - fall
    log_w = log_w.to(x.dtype).unflatten(0, (draws, len(x)))
    return z.unflatten(0, (draws, len(x))), torch.log_softmax(log_w, dim=0)


def _against(
    flow_map: FlowMap, mean: Tensor, step: Tensor, t: Tensor, cond: Cond, e: Tensor, nodes: int
) -> Float[Tensor, "b"]:
    """Computes int_0^1 n_t(mean + a step) . e da."""
    total = torch.zeros_like(t)
    for place, weight in gauss_legendre(nodes):
        x = mean + place * step
        noise = flow_map.schedule.from_velocity(flow_map.velocity(x, t, cond), x, t).noise
        total = total + weight * _dot(noise, e)
    return total


def gauss_legendre(nodes: int) -> list[tuple[float, float]]:
    """Nodes and weights on [0, 1], exact for polynomials of degree 2 nodes - 1.

    By the eigenvalues of the Jacobi matrix (Golub & Welsch 1969).
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    beside = torch.diag(k / torch.sqrt(4 * k**2 - 1), 1)
    places, vectors = torch.linalg.eigh(beside + beside.T)
    return list(zip(((places + 1) / 2).tolist(), vectors[0].square().tolist(), strict=True))


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
    return (a * b).flatten(1).sum(1)
