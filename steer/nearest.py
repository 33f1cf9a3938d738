"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable

__all__ = ["hint", "nearest", "suggestion"]


def nearest(name: object, names: Iterable[object], cutoff: float = 0.5) -> str | None:
    """The name most similar to a misspelt one, whatever the case; None where none is similar.

    Args:
        name: what was written.
        names: the valid ones.
        cutoff: the least similarity, from 0 to 1, as `difflib.SequenceMatcher.ratio` has it.
    """
    exact = sorted((str(each) for each in names), reverse=True)
    folded = {each.casefold(): each for each in exact}  # of Mlp and mlp, the class
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def suggestion(name: object, names: Iterable[object], cutoff: float = 0.5, prefix: str = "") -> str:
    """The end of an error message, "; did you mean 'NAME'?", or nothing.

    Args:
        name, names, cutoff: as in `nearest`.
        prefix: written before the name, such as the path of a key.
    """
    found = nearest(name, names, cutoff)
    return "" if found is None else f"; did you mean {prefix + found!r}?"


def hint(name: object, names: Iterable[object], cutoff: float = 0.5, shown: int = 12) -> str:
    """The end of an error message: "did you mean 'NAME'?", or the valid names.

    Args:
        name, names, cutoff: as in `nearest`.
        shown: how many valid names are listed at most.
    """
    valid = sorted(map(str, names))
    found = nearest(name, valid, cutoff)
    if found is not None:
        return f"did you mean {found!r}?"
    more = ", ..." if len(valid) > shown else ""
    return f"there are: {', '.join(valid[:shown]) or 'none'}{more}"
