"""Honest counts: how often, per sample, the network and the reward ran forwards and backwards.

Whoever calls a network or a reward wraps the call in `network` or `reward`; `count()` opens a tally
that every call inside it adds to. One forward is one sample through the network once, one backward
is one sample's gradient through it. Backwards are counted when the gradient really arrives, by a
hook on the output. Tallies nest: an inner count also adds to the outer one. Calls inside
`torch.func` transforms count as forwards; their derivatives do not (the training objectives state
their own cost).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


@dataclass
class Evaluations:
    """Forward and backward passes of network and reward: totals over samples, or per sample after
    `per`.
    """

    network_forward: float = 0
    network_backward: float = 0
    reward_forward: float = 0
    reward_backward: float = 0

    def per(self, samples: float) -> "Evaluations":
        """The counts divided by a number of samples."""
        return Evaluations(**{name: n / samples for name, n in asdict(self).items()})

    def forward_equivalents(self, backward: float = 2.0) -> float:
        """Network passes with a backward priced at `backward` forwards (twice the multiplications,
        by default).
        """
        return self.network_forward + backward * self.network_backward


_open: ContextVar[tuple[Evaluations, ...]] = ContextVar("steer_open_tallies", default=())


@contextmanager
def count() -> Iterator[Evaluations]:
    """Opens a tally for the calls made inside the `with`."""
    tally = Evaluations()
    token = _open.set((*_open.get(), tally))
    try:
        yield tally
    finally:
        _open.reset(token)


def network(output: Tensor) -> Tensor:
    """Counts one network pass for each sample of `output` (B, *shape), and returns it."""
    return _tally(output, "network_forward", "network_backward")


def reward(output: Tensor) -> Tensor:
    """Counts one reward pass for each sample of `output` (B,), and returns it."""
    return _tally(output, "reward_forward", "reward_backward")


def _tally(output: Tensor, forward: str, backward: str) -> Tensor:
    tallies = _open.get()
    n = output.shape[0]
    for tally in tallies:
        setattr(tally, forward, getattr(tally, forward) + n)
    if tallies and output.requires_grad and not is_functorch_wrapped_tensor(output):

        def arrived(_: Tensor) -> None:
            for tally in tallies:
                setattr(tally, backward, getattr(tally, backward) + n)

        output.register_hook(arrived)
    return output
