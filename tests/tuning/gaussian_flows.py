"""Flows of N(m, s^2) in closed form on the linear path: the base, and the best control of it."""

import math

import torch

from steer.flow_map import ResidualMap
from steer.interpolant import Linear, expand
from steer.networks import Mlp
from steer.samplers import Jump, Ode
from steer.tilt import Tilt


class GaussianNetwork(torch.nn.Module):
    """The average velocity of x -> t m + sig_t / sig_s (x - s m), sig_t^2 = t^2 s^2 + (1 - t)^2."""

    def __init__(self, mean=0.0, std=1.0):
        super().__init__()
        self.mean = mean
        self.std = std

    def sig(self, t):
        return (t**2 * self.std**2 + (1 - t) ** 2).sqrt()

    def forward(self, x, s, t, cond=None):
        change = ((self.std**2 + 1) * (s + t) - 2) / (self.sig(s) + self.sig(t)) / self.sig(s)
        return self.mean + expand(change, x) * (x - expand(s, x) * self.mean)


class ControlledNetwork(GaussianNetwork):
    """The same with the control share s / sig_t r'(y), where y is the landing from (t, x).

    In z = (x - t m) / sig_t it moves by s r'(y) (A_t - A_s), with A' = 1 / sig^2. At share = 1 it
    is the best control; for a linear reward every share is a flow.
    """

    def __init__(self, reward, mean=0.0, std=1.0, share=1.0):
        super().__init__(mean, std)
        self.reward = reward
        self.share = torch.nn.Parameter(torch.tensor(share, dtype=torch.float64))

    def a(self, t):
        return torch.atan(((self.std**2 + 1) * t - 1) / self.std) / self.std

    def landing(self, x, t):
        """Where y = m + s z + s^2 r'(y) (A_1 - A_t), by Newton's method; the last step has grad."""
        z = (x - expand(t, x) * self.mean) / expand(self.sig(t), x)
        weight = self.std**2 * expand(self.a(torch.ones_like(t)) - self.a(t), x)
        goal = self.mean + self.std * z
        y, still = goal.detach(), (goal.detach(), weight.detach())
        for k in range(13):
            g, w = still if k < 12 else (goal, weight)
            y = y - (y - g - w * self.reward.slope(y)) / (1 - still[1] * self.reward.bend(y))
        return y

    def forward(self, x, s, t, cond=None):
        rise = torch.where(t == s, 1.0, t - s)
        rise = torch.where(t == s, self.sig(t) ** -2, (self.a(t) - self.a(s)) / rise)
        push = self.share * self.std * self.reward.slope(self.landing(x, s))
        return super().forward(x, s, t) + expand(self.sig(t) * rise, x) * push


def gaussian_map(mean=0.0, std=1.0):
    return ResidualMap(GaussianNetwork(mean, std), Linear())


def controlled_map(reward, mean=0.0, std=1.0, share=1.0):
    return ResidualMap(ControlledNetwork(reward, mean, std, share), Linear())


def quantiles(n):
    """n places of N(0, 1), one in the middle of each of n equal shares, (n, 1)."""
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.special.ndtri(share)[:, None]


class Bump:
    """r = scale exp(-(y - centre)^2 / (2 width^2)), of (B, 1)."""

    def __init__(self, scale, centre=4.75, width=2.25):
        self.scale, self.centre, self.width = scale, centre, width

    def __call__(self, y):
        return self.scale * torch.exp(-(((y - self.centre) / self.width) ** 2) / 2)[:, 0]

    def slope(self, y):
        return -(y - self.centre) / self.width**2 * self(y)[:, None]

    def bend(self, y):
        return (((y - self.centre) / self.width) ** 2 - 1) / self.width**2 * self(y)[:, None]


class Parabola:
    """r = a y - k/2 (y - c)^2, of (B, 1)."""

    def __init__(self, a=0.0, k=0.0, c=0.0):
        self.a, self.k, self.c = a, k, c

    def __call__(self, y):
        return (self.a * y - self.k / 2 * (y - self.c) ** 2)[:, 0]

    def slope(self, y):
        return self.a - self.k * (y - self.c)

    def bend(self, y):
        return torch.full_like(y, -self.k)


def reach(std):
    """tau of the transport's cost |y - m - s x0|^2 / (2 tau)."""
    return math.pi * std / 2


class Added(torch.nn.Module):
    """The network of N(0, 1) plus a perceptron that is zero at first."""

    def __init__(self):
        super().__init__()
        self.base = GaussianNetwork()
        self.more = Mlp(1, width=64, depth=2)
        torch.nn.init.zeros_(self.more.last.weight)
        torch.nn.init.zeros_(self.more.last.bias)

    def forward(self, x, s, t, cond=None):
        return self.base(x, s, t) + self.more(x, s, t)


def bump_after_training(objective, scale, steps):
    """E of the bump by one jump, four jumps and many steps of a map tuned on N(0, 1)."""
    torch.manual_seed(0)
    flow_map, base, tilt = ResidualMap(Added(), Linear()), gaussian_map(), Tilt(Bump(1.0), scale)
    objective.prepare(flow_map, base, tilt)
    optimizer = torch.optim.Adam([*flow_map.parameters(), *objective.parameters()], 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x0 = torch.randn(256, 1, generator=generator)
        loss = objective(flow_map, base, tilt, x0, None, generator, step)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
    x0 = quantiles(2000).float()[:, None]
    draws = (s(flow_map, x0, None, None, generator) for s in (Jump(1), Jump(4), Ode(100)))
    return [Bump(1.0)(drawn.x[:, 0]).mean().item() for drawn in draws]
