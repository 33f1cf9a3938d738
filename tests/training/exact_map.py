"""The flow map of one Gaussian on the straight path: exact, smooth, with three parameters."""

import torch
from torch import nn

from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.training import Pairs, Target

MEAN = (1.0, -0.5)
STD = 0.6


class AverageVelocity(nn.Module):
    """u_{s,t}(x) of N(mean, std^2 I), bent off the diagonal by `bend` and on it by `lean`.

    With tau_t^2 = t^2 std^2 + (1-t)^2, X_{s,t}(x) = t mean + (tau_t / tau_s) (x - s mean), and
    (tau_t - tau_s) / (t - s) = ((t + s) (1 + std^2) - 2) / (tau_t + tau_s) has no singularity at s
    = t.
    """

    def __init__(self, mean=MEAN, std=STD, bend=0.0, lean=0.0):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))
        self.lean = nn.Parameter(torch.tensor(lean, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        s, t = s[:, None].to(x.dtype), t[:, None].to(x.dtype)
        tau_s, tau_t = (torch.sqrt(r**2 * self.std**2 + (1 - r) ** 2) for r in (s, t))
        stretch = ((t + s) * (1 + self.std**2) - 2) / (tau_s * (tau_t + tau_s))
        exact = self.mean + stretch * (x - s * self.mean)
        return exact + self.bend * (t - s) * torch.sin(x + s) + self.lean * torch.cos(x)


def exact_map(**changes):
    """The exact map, or one changed by its parameters."""
    return ResidualMap(AverageVelocity(**changes), Linear())


def pairs(n, seed=0):
    """Noise, data of the Gaussian, and times s <= t, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x0, z = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    s, t = torch.rand(2, n, generator=generator, dtype=torch.float64).sort(dim=0).values
    return x0, torch.tensor(MEAN, dtype=torch.float64) + STD * z, s, t


def gradients(loss, flow_map):
    """By parameter name; zeros where a parameter takes no part."""
    names, parameters = zip(*flow_map.network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def residual(objective, student, drawn, cond=None, seed=0, teacher=None, step=0):
    """An off-diagonal objective on drawn = (x0, x1, s, t), its target the student or a teacher."""
    x0, x1, s, t = drawn
    group = objective.group
    if group > 1:
        s, t = (time[::group].repeat_interleave(group) for time in (s, t))
    target = Target(teacher or student, teacher or student)
    return objective(student, target, Pairs(x0, x1, s, t, cond, step), generator(seed))
