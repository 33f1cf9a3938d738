"""What foreign networks would have learned of a mixture, in their own variables: the optima of
their papers' losses.
"""

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from steer.analytic import GaussianMixture
from steer.maps.predictions import NoisePrediction, SalimansHoPrediction

SIGMA_DATA = 1.7
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = (1 - BETAS).cumprod(0)  # the table of Ho et al.


def mixture(schedule=None):
    return GaussianMixture(
        [[1.0, -2.0], [0.5, 1.0], [-2.0, 0.0]], [0.5, 0.7, 1.1], [1.0, 2.0, 3.0], schedule
    )


def clean_and_noise(law, z, a, b, cond):
    """E[x1 | z] and E[x0 | z] of z = a x1 + b x0, by way of the straight path, where a + b = 1."""
    return law.endpoints(z / (a + b)[:, None], a / (a + b), cond)


class Fake(nn.Module):
    """A network with one weight, that remembers the noise levels it is asked at."""

    def __init__(self, law=None):
        super().__init__()
        self.law, self.gain, self.asked = (
            law or mixture(),
            nn.Parameter(torch.ones((), dtype=torch.float64)),
            [],
        )

    def forward(self, y, level, cond):
        assert level.shape == y.shape[:1]
        self.asked.append(level.detach())
        return self.gain.to(y) * self.learned(y, level, cond)


class EdmNetwork(Fake):
    """F = (D - c_skip z) / c_out with D = E[x1 | x1 + sig n]: the optimum of Karras et al.,
    equation 8.
    """

    def learned(self, y, c_noise, cond):
        sig = (4 * c_noise).exp()
        z = y * (sig**2 + SIGMA_DATA**2).sqrt()[:, None]
        clean, _ = clean_and_noise(self.law, z, torch.ones_like(sig), sig, cond)
        c_skip = SIGMA_DATA**2 / (sig**2 + SIGMA_DATA**2)
        c_out = sig * SIGMA_DATA / (sig**2 + SIGMA_DATA**2).sqrt()
        return (clean - c_skip[:, None] * z) / c_out[:, None]


class TrigNetwork(Fake):
    """F = E[dz/dtheta | z] / sigma_data on z = cos x1 + sin sigma_data n."""

    def learned(self, y, theta, cond):
        clean, noise = clean_and_noise(
            self.law, SIGMA_DATA * y, theta.cos(), SIGMA_DATA * theta.sin(), cond
        )
        return theta.cos()[:, None] * noise - theta.sin()[:, None] * clean / SIGMA_DATA


class DdpmNetwork(Fake):
    """E[eps | z] at abar of any fraction of a step, on a smooth curve through the table; or D, or
    the v.
    """

    def __init__(self, prediction=None, abar=ABAR):
        super().__init__()
        self.prediction = prediction or NoisePrediction()
        self.cubics = torch.as_tensor(CubicSpline(np.arange(len(abar)), abar.log().numpy()).c)

    def learned(self, z, step, cond):
        i = step.detach().long().clamp(max=self.cubics.shape[1] - 1)
        a, b, c, d = self.cubics[:, i].to(z)
        h = step - i
        abar = (((a * h + b) * h + c) * h + d).exp()
        clean, noise = clean_and_noise(self.law, z, abar.sqrt(), (1 - abar).sqrt(), cond)
        if isinstance(self.prediction, NoisePrediction):
            return noise
        v = abar.sqrt()[:, None] * noise - (1 - abar).sqrt()[:, None] * clean
        return v if isinstance(self.prediction, SalimansHoPrediction) else clean
