"""Networks that move the noise of a base by a line, and images to call objectives with."""

import torch
from gaussian_flows import GaussianNetwork

from steer.flow_map import ResidualMap
from steer.interpolant import Linear


class Moved(torch.nn.Module):
    """A Gaussian's network plus a + c x, so that f(x) = a + c x."""

    def __init__(self, a, c, mean, std):
        super().__init__()
        self.base = GaussianNetwork(mean, std)
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        return self.base(x, s, t) + self.a + self.c * x


class LabelledImages(torch.nn.Module):
    """A convolution of images of one channel, with a constant for each of three labels."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.shift = torch.nn.Parameter(torch.tensor([0.0, 0.5, -0.5]))

    def forward(self, x, s, t, cond=None):
        u = torch.tanh(self.convolution(x)) * (1 + t - s)[:, None, None, None]
        return u if cond is None else u + self.shift[cond][:, None, None, None]


def moved_map(a, c, mean=0.0, std=1.0):
    return ResidualMap(Moved(a, c, mean, std), Linear())


def image_map():
    torch.manual_seed(0)
    return ResidualMap(LabelledImages(), Linear())


def tilted_noise(k, centre, mean, std):
    """a and c of the line that carries N(0, 1) to p_0 exp(r(m + s y)), and log Z."""
    precision = 1 + k * std**2
    log_z = -(torch.tensor(precision).log() + k * (centre - mean) ** 2 / precision) / 2
    return k * std * (centre - mean) / precision, precision**-0.5 - 1, log_z.item()
