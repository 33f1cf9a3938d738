"""A hook for progress: long loops pass their steps through `track`, and whoever wants a bar says
how with `shown_by`.

for step in track(steps): ...                 # in the loop, which knows of no bar
with shown_by(bar): sampler(flow_map, x0)     # outside; bar(steps) yields the steps and draws on the way
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
Bar = Callable[[Sequence[Any]], Iterable[Any]]

_bar: ContextVar[Bar] = ContextVar("steer_progress_bar", default=iter)


def track(steps: Sequence[T]) -> Iterable[T]:
    """The steps, one by one, past the bar of the moment; without one, just the steps."""
    return _bar.get()(steps)


@contextmanager
def shown_by(bar: Bar) -> Iterator[None]:
    """Inside the `with`, every tracked loop is shown by `bar`."""
    token = _bar.set(bar)
    try:
        yield
    finally:
        _bar.reset(token)
