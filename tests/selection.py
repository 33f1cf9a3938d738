"""Parameters of which some run in every test run, and the others in `make test-all`."""

from collections.abc import Collection, Iterable

import pytest


def slow_but(quick: Collection[str], values: Iterable, ids: Iterable[str]) -> list:
    """Marks as slow every parameter whose id is not among the quick ones."""
    found = [
        pytest.param(value, id=name, marks=() if name in quick else pytest.mark.slow)
        for value, name in zip(values, ids, strict=True)
    ]
    assert {param.id for param in found} >= set(quick)
    return found
