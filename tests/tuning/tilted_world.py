"""World M with a quadratic reward, its tilt in closed form, and maps between the two velocities."""

import torch
from toys import noise, seeded

from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.tilt import Tilt

M = GaussianMixture([[-1.5], [1.0]], [[0.4], [0.5]], [0.4, 0.6], steps=32)
REWARD = Quadratic([1.6], 1.0)


class Between(torch.nn.Module):
    """b_base + a (b* - b_base), b* the velocity of the tilted mixture; all jumps are velocities."""

    def __init__(self, a, reward=REWARD):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.tilted = M.tilted(reward)[0]

    def forward(self, x, s, t, cond=None):
        base = M.velocity(x, s)
        return base + self.a * (self.tilted.velocity(x, s) - base)


def between(a, reward=REWARD):
    """A map at that place between the base (0) and the tilt (1)."""
    return ResidualMap(Between(a, reward), Linear())


def resting_place(objective, reward, n, at=(0.0, 1.0), collected_at=None, seed=0):
    """Where the loss, a parabola in a for given samples, has its vertex.

    The samples are collected by the map at `collected_at`; by each map itself if None.
    """
    tilt = Tilt(reward)
    slopes = []
    for a in at:
        flow_map = between(a)
        source = flow_map if collected_at is None else between(collected_at)
        with torch.no_grad():
            kept = objective.collect(source, M, tilt, noise(n, 1, seed), None, seeded(seed + 3))
        loss = objective.loss(flow_map, M, tilt, kept, seeded(seed + 4), 0)
        slopes.append(torch.autograd.grad(loss.total, flow_map.network.a)[0].item())
    low, high = slopes
    return at[0] + (at[1] - at[0]) * low / (low - high)
