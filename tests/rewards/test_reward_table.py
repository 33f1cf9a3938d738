"""The table of docs/rewards.md names every reward, and says of its gradient what the class says."""

import re
from pathlib import Path

import pytest

import rewards
from rewards.compose import Composite

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
ROWS = {
    name: [cell.strip() for cell in rest.split("|")]
    for name, rest in re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, re.MULTILINE)
}


def classes():
    found = {name: getattr(rewards, name) for name in rewards.__all__ if name[0].isupper()}
    return {name: kind for name, kind in found.items() if name != "Reward"}


def test_every_reward_has_a_row_and_every_row_a_reward():
    assert ROWS.keys() == classes().keys()
    assert {len(row) for row in ROWS.values()} == {5}


@pytest.mark.parametrize("name", ROWS)
def test_its_gradient_is_as_the_class_says(name):
    kind = classes()[name]
    said = ROWS[name][2]
    if issubclass(kind, Composite):
        assert said == "as its parts"
    else:
        assert said == ("yes" if kind.differentiable else "no")


def test_what_needs_published_weights_says_that_it_was_not_run_on_them():
    own = {"ClassLogProbability"}
    published = [name for name, row in ROWS.items() if row[3] not in ("", "none", "yours")]
    asked = [name for name in published if "server's" not in ROWS[name][3] and name not in own]
    assert len(asked) == 11
    for name in asked:
        assert re.search("no published|by hand", ROWS[name][4]), name
