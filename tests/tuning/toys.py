"""Networks small enough to differentiate by hand, and the exact map of standard normal data."""

import torch
from ball import radius

from steer.flow_map import ResidualMap
from steer.interpolant import Linear, expand
from steer.samplers.base import Result, Sampler


class Matrix(torch.nn.Module):
    """u_{s,t}(x) = W x at all times."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.as_tensor(weight, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        return x @ self.weight.T


class Shifted(torch.nn.Module):
    """A network plus a constant."""

    def __init__(self, network, shift):
        super().__init__()
        self.network = network
        self.shift = torch.nn.Parameter(torch.as_tensor(shift, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        return self.network(x, s, t, cond) + self.shift


class Brightness(torch.nn.Module):
    """u_{s,t}(x) = (1 + t - s) x plus a number for each of ten labels."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(10))

    def forward(self, x, s, t, cond=None):
        return expand(1 + t - s, x) * x + expand(self.gain[cond], x)


class BallNetwork(torch.nn.Module):
    """The average velocity of x -> x rho_t / rho_s (normal data), times `gain`, plus `more`."""

    def __init__(self, more=None):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.more = more

    def forward(self, x, s, t, cond=None):
        # (rho_t - rho_s) / (t - s) = 2 (s + t - 1) / (rho_s + rho_t), whole at s = t too
        mean = 2 * (s + t - 1) / (radius(s, x) + radius(t, x)) / radius(s, x)
        u = self.gain * expand(mean, x) * x
        return u if self.more is None else u + self.more(x, s, t, cond)


def linear_map(weight):
    return ResidualMap(Matrix(weight), Linear())


def ball_map(more=None):
    return ResidualMap(BallNetwork(more), Linear())


def noise(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


class OneJump(Sampler):
    """One jump, without the keys of each prompt, which take time for 1e5 of them."""

    claim = "exact"

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None, prompt_keys=None):
        x = flow_map(x0.flatten(0, 1), 0.0, 1.0, cond).view_as(x0)
        return Result(x, x.new_zeros(x.shape[:2]), None)
