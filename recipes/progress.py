"""Progress bars for the loops of the library, on standard error."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from steer.progress import shown_by


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[None]:
    """Inside the `with`, tracked loops draw a bar of that title; it goes when they are done."""
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:

        def shown(steps: Sequence[Any]) -> Iterable[Any]:
            return progress.track(steps, description=title)

        with shown_by(shown):
            yield
