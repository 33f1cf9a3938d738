"""Warning of diverged samples: finite, but far outside noise and data."""

import warnings

import torch
from torch import Tensor

FAR = 1000.0  # times as far as the noise, or as 1


class Divergence(UserWarning):
    """A sample is far outside the range of noise and data."""


class Reach:
    """Largest coordinate of each sample after every step, kept on the device for one warning.

    Args:
        sampler: its name, for the warning.
        x: the noise, (B, *shape).
    """

    def __init__(self, sampler: str, x: Tensor):
        self.sampler, self.samples = sampler, len(x)
        self.usual = x.abs().amax()
        self.times: list[float] = []
        self.reaches: list[Tensor] = []

    def keep(self, state: object, t: float) -> None:
        """Keeps max |x_i| of each sample; a state's first tensor holds its samples."""
        x = first(state)
        if x is not None and len(x) == self.samples:
            self.times.append(t)
            self.reaches.append(x.detach().flatten(1).abs().amax(1))

    def warn(self) -> None:
        """Warns of the first sample that is too far out, naming it, the time and the size."""
        if not self.reaches:
            return
        reaches = torch.stack(self.reaches)
        away = ~(reaches <= FAR * self.usual.clamp_min(1.0))  # NaN is away too
        if not away.any():
            return
        step, sample = away.nonzero()[0].tolist()
        there, last = float(reaches[step, sample]), float(reaches[-1].max())
        warnings.warn(
            f"{self.sampler}: sample {sample} reaches {there:.3g} at t = {self.times[step]:.4g}"
            f" ({last:.3g} is the most at the end), and the noise {float(self.usual):.3g}: the"
            " steering has most likely diverged; lower tilt.scale or the sampler's strength, or"
            " take more steps",
            Divergence,
            stacklevel=2,
        )


def first(state: object) -> Tensor | None:
    """The first tensor of nested tuples."""
    while isinstance(state, tuple) and state:
        state = state[0]
    return state if isinstance(state, Tensor) else None
