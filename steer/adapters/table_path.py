"""The path of a diffusion in discrete steps, alpha^2 + sigma^2 = 1 given by a table."""

import math

import torch
from torch import Tensor

from steer.annotations import Count
from steer.interpolant import Coefficients, Schedule

__all__ = ["TablePath"]


class TablePath(Schedule):
    """The path on which step i of T is time 1 - (i + 1) / T, and clean data time 1.

    Between the steps the angle theta of alpha = cos, sigma = sin is linear in time. As in a
    diffusion, alpha is small but not zero at t = 0.

    Args:
        alphas_cumprod: alpha^2 of each step, from clean to noise, decreasing in (0, 1).
        every: the map is trained at each so-many-th step alone, counted from the clean end.

    Raises:
        ValueError: another list.
    """

    def __init__(self, alphas_cumprod: Tensor, every: Count = 1):
        abar = alphas_cumprod.detach().double().cpu()
        if abar.ndim != 1 or not (abar.diff() < 0).all() or not (0 <= abar[-1] < abar[0] < 1):
            raise ValueError("alphas_cumprod is a decreasing list of numbers in (0, 1)")
        angles = torch.atan2((1 - abar).sqrt(), abar.sqrt())
        self.angles = (0.0, *angles.tolist())
        self.every = every

    @property
    def steps(self) -> int:
        """T."""
        return len(self.angles) - 1

    def step_at(self, t: Tensor) -> Tensor:
        """The step of a time, whole where the time is that of a step, up to rounding."""
        step = self.steps * (1 - t) - 1
        whole = step.round()
        return step + torch.where((step - whole).abs() < 2e-3, whole - step, 0.0).detach()

    def trained_time(self, t: float) -> float:
        if self.every == 1 or not 0 < t < 1:
            return t
        left = self.every * math.ceil(self.steps * (1 - t) / self.every - 1e-6)
        return max(1 - left / self.steps, 0.0)

    def is_trained(self, t: Tensor) -> Tensor:
        """Whether the map is trained at these times, which 0 and 1 count as."""
        left = self.step_at(t) + 1
        return (left % self.every == 0) | (t <= 0) | (t >= 1)

    def coefficients(self, t: Tensor) -> Coefficients:
        table = torch.tensor(self.angles, dtype=torch.float64, device=t.device)
        place = self.step_at(t.double()) + 1
        i = place.detach().floor().clamp(0, self.steps - 1).long()
        rise = table[i + 1] - table[i]
        theta = table[i] + (place - i) * rise
        alpha, sigma = torch.cos(theta), torch.sin(theta)
        slope = -self.steps * rise
        return Coefficients(*(c.to(t) for c in (alpha, sigma, -sigma * slope, alpha * slope)))

    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        theta = torch.atan2(sigma, alpha).double()
        table = torch.tensor(self.angles, dtype=torch.float64, device=theta.device)
        i = torch.searchsorted(table, theta.detach().contiguous()).clamp(1, self.steps)
        place = i - 1 + (theta - table[i - 1]) / (table[i] - table[i - 1])
        return (1 - place / self.steps).to(alpha)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps} steps to {math.cos(self.angles[-1]):.4f})"
