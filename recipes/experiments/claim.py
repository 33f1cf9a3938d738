"""What a figure shows, as a line of the summary and as a table: text from kept cells, and nothing
else.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.verification.summary import markdown


class Claim(NamedTuple):
    """A claim, what was aimed at, what was found, and whether that meets the aim; None where no
    figure was aimed at.
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
