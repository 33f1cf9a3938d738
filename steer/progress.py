"""Progress bars for loops that do not know of them.

for step in track(steps): ...                 # in the loop
with shown_by(bar): sampler(flow_map, x0)     # by the caller; bar(steps) yields the steps
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
Bar = Callable[[Sequence[Any]], Iterable[Any]]

_bar: ContextVar[Bar] = ContextVar("steer_progress_bar", default=iter)


def track(steps: Sequence[T]) -> Iterable[T]:
    """Iterate over the steps, through the current progress bar if there is one."""
    return _bar.get()(steps)


@contextmanager
def shown_by(bar: Bar) -> Iterator[None]:
    """Show every tracked loop inside the `with` by `bar`."""
    token = _bar.set(bar)
    try:
        yield
    finally:
        _bar.reset(token)
