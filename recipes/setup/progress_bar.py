"""Progress bars for the loops of the library, on standard error."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from steer.progress import shown_by

COLUMNS = (
    TextColumn("{task.description}"),
    MofNCompleteColumn(),
    BarColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


@contextmanager
def with_source(whom: str, where: str, said: set[tuple[str, str]]) -> Iterator[None]:
    """Prefixes the warnings raised in the `with` by their source; they are issued at its end.

    Args:
        whom: the method that they are about.
        where: at which budget and seed.
        said: (method, warning) already issued, which are not repeated; new ones are added.
    """
    heard: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            yield
    finally:
        for warning in heard:
            what = str(warning.message)
            if (whom, what) not in said:
                said.add((whom, what))
                warnings.warn(f"{whom} {where}: {what}", UserWarning, stacklevel=3)


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[None]:
    """Draws a bar of that title for loops tracked in the `with`; it disappears at their end."""

    def shown(steps: Sequence[Any]) -> Iterator[Any]:
        with Progress(*COLUMNS, console=Console(stderr=True), transient=True) as progress:
            yield from progress.track(steps, description=title)

    if quiet or not sys.stderr.isatty():
        yield
    else:
        with shown_by(shown):
            yield
