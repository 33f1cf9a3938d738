"""The simplest world, in any shape: standard normal data, whose every law is a centred normal."""

import torch

from steer import counting
from steer.flow_map import FlowMap
from steer.interpolant import Linear, batch_time, expand
from steer.lookahead import Guesses, log_uniform


class Ball(FlowMap):
    """X_{s,t}(x) = x rho_t / rho_s, with rho_t^2 = t^2 + (1 - t)^2 the variance on the way. Deaf to
    conditions.
    """

    schedule = Linear()
    jumps_follow_velocity = True

    def forward(self, x, s, t, cond=None):
        return counting.network(x * expand(radius(t, x) / radius(s, x), x))

    def velocity(self, x, t, cond=None):
        t = batch_time(t, x)
        return counting.network(x * expand((2 * t - 1) / (t**2 + (1 - t) ** 2), x))

    def posterior_guesses(self, x, t, draws, generator, cond=None):
        t = batch_time(t, x)
        mean, std = x * expand(t / radius(t, x) ** 2, x), expand((1 - t) / radius(t, x), x)
        noise = torch.randn(draws, *x.shape, generator=generator, dtype=x.dtype)
        x1 = mean + std * noise
        return Guesses(x1, log_uniform(x1))


def radius(t, x):
    """rho_t, the standard deviation at time t."""
    t = batch_time(t, x)
    return torch.sqrt(t**2 + (1 - t) ** 2)
