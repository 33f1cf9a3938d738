"""The nearest of the known names to one that is not known, for error messages."""

import difflib
from collections.abc import Iterable

SHOWN = 12  # names in a list of what there is


def nearest(name: object, names: Iterable[object], cutoff: float = 0.5) -> str | None:
    """Find the known name most like `name`, whatever the case of its letters.

    Args:
        name: what was given.
        names: what is known.
        cutoff: the least similarity, in [0, 1], as in `difflib.get_close_matches`.
    """
    # reversed, so that of Mlp and mlp the class is left
    folded = {n.casefold(): n for n in sorted(map(str, names), reverse=True)}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def suggestion(name: object, names: Iterable[object], cutoff: float = 0.5) -> str:
    """End an error message: "did you mean 'x'?", or what there is."""
    known = sorted(map(str, names))
    close = nearest(name, known, cutoff)
    if close is not None:
        return f"did you mean {close!r}?"
    more = ", ..." if len(known) > SHOWN else ""
    return f"there are: {', '.join(known[:SHOWN]) or 'none'}{more}"
