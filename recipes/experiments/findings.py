"""The findings of an experiment as text: lines of the summary, tables and numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.verification.summary import markdown


class Finding(NamedTuple):
    """A finding beside its aim.

    Attributes:
        claim: what was examined.
        aim: the value aimed at.
        found: the value found.
        met: whether it meets the aim; None where it is not measured or nothing was aimed at.
    """

    claim: str
    aim: str
    found: str
    met: bool | None


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return markdown([head, *rows])


def short(value: float, digits: int = 3) -> str:
    """A number without the zero before its point: .852, 1.31."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float, digits: int = 4) -> str:
    """The same with its sign."""
    return short(value, digits) if value < 0 else f"+{short(value, digits)}"


def within(mean: float, error: float, digits: int = 3) -> str:
    """mean ± one standard error."""
    return f"{short(mean, digits)} ± {short(error, digits)}"


def thousands(value: float) -> str:
    """A whole number with thin groups: 11 360."""
    return f"{value:,.0f}".replace(",", " ")
