"""Loops pass their steps through a hook; a recipe hangs a bar on it, and takes it off again."""

import warnings

import pytest

from recipes.setup.progress_bar import bar, with_source
from steer.progress import shown_by, track


def test_steps_pass_with_or_without_a_bar(monkeypatch):
    seen = []

    def counting(steps):
        for step in steps:
            seen.append(step)
            yield step

    with shown_by(counting):
        assert list(track([1, 2])) == [1, 2]
    assert list(track([3])) == [3]
    assert seen == [1, 2]


def test_a_bar_hands_the_steps_through(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with bar("steered"):
        assert list(track([1, 2, 3])) == [1, 2, 3]
    with bar("steered", quiet=True):
        assert list(track([4])) == [4]


def test_warnings_say_whom_they_are_about_once():
    with pytest.warns(UserWarning, match="^FMTT at 13: ") as caught:
        warn_at(13, 26)
    assert [str(warning.message) for warning in caught] == [
        "FMTT at 13: late",
        "FMTT at 13: by 13",
        "FMTT at 26: by 26",
    ]


def warn_at(*budgets):
    said = set()
    for budget in budgets:
        with with_source("FMTT", f"at {budget}", said):
            warnings.warn("late", FutureWarning, stacklevel=1)
            warnings.warn(f"by {budget}", UserWarning, stacklevel=1)


def test_warnings_before_a_failure_are_not_lost():
    with (
        pytest.warns(UserWarning, match="^FMTT at 13: before$"),
        pytest.raises(ValueError, match="no"),
    ):
        warn_and_fail()


def warn_and_fail():
    with with_source("FMTT", "at 13", set()):
        warnings.warn("before", UserWarning, stacklevel=1)
        raise ValueError("no")
