"""Loops pass their steps through a hook; a recipe hangs a bar on it, and takes it off again."""

from recipes.progress import bar
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
