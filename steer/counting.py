"""Counts of the forward and backward passes of network and reward, per sample.

Every call of a network or a reward is wrapped in `network` or `reward`; `count()` opens a tally of
the calls inside it. One forward is one sample through the network once, one backward the gradient
of one sample through it, counted by a hook on the output when the gradient arrives. Tallies nest:
an inner one also adds to the outer ones. A derivative in forward mode is one forward for the value
and one for the tangent, and likewise backwards (`tangent`, which `steer.training.ForwardMode`
calls); under other `torch.func` transforms, calls count as forwards alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


@dataclass
class Evaluations:
    """Forward and backward passes of network and reward, summed over samples."""

    network_forward: float = 0
    network_backward: float = 0
    reward_forward: float = 0
    reward_backward: float = 0

    def per(self, samples: float) -> "Evaluations":
        """Divide the counts by a number of samples."""
        return Evaluations(**{name: n / samples for name, n in asdict(self).items()})

    def forward_equivalents(self, backward: float = 2.0) -> float:
        """Compute the network passes in forwards; a backward costs two of them by default."""
        return self.network_forward + backward * self.network_backward


_open: ContextVar[tuple[Evaluations, ...]] = ContextVar("steer_open_tallies", default=())


@contextmanager
def count() -> Iterator[Evaluations]:
    """Open a tally of the calls made inside the `with`."""
    tally = Evaluations()
    token = _open.set((*_open.get(), tally))
    try:
        yield tally
    finally:
        _open.reset(token)


def network(output: Tensor) -> Tensor:
    """Count one network pass for each sample of `output` (B, *shape), and return it."""
    return _tally(output, "network_forward", "network_backward")


def reward(output: Tensor) -> Tensor:
    """Count one reward pass for each sample of `output` (B,), and return it."""
    return _tally(output, "reward_forward", "reward_backward")


def tangent(inside: Evaluations, value: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
    """Count the tangent's passes of a derivative in forward mode, and the backward ones of both.

    Args:
        inside: the tally of the calls made while it was taken, one forward for each.
        value: the function's value, outside the transform.
        derivative: its derivative along the tangents.

    Returns:
        The value and its derivative.
    """
    passes = inside.network_forward
    for tally in _open.get():
        tally.network_forward += passes
    for output in (value, derivative):
        _when_gradient_arrives(output, "network_backward", passes)
    return value, derivative


def _tally(output: Tensor, forward: str, backward: str) -> Tensor:
    """Add to all open tallies now, and once more when the gradient of `output` arrives."""
    tallies = _open.get()
    n = output.shape[0]
    for tally in tallies:
        setattr(tally, forward, getattr(tally, forward) + n)
    _when_gradient_arrives(output, backward, n)
    return output


def _when_gradient_arrives(output: Tensor, backward: str, passes: float) -> None:
    """Add so many passes to the tallies open now when the gradient of `output` arrives."""
    tallies = _open.get()
    if not tallies or not output.requires_grad or is_functorch_wrapped_tensor(output):
        return

    def arrived(_: Tensor) -> None:
        for tally in tallies:
            setattr(tally, backward, getattr(tally, backward) + passes)

    output.register_hook(arrived)
