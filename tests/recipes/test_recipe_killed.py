"""A small version of tests/killed.py, which see."""

import pytest
from killed import compare


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_folder_of_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = compare(prompts=160, kills=2)
    assert len(lines) == 3
    assert all(line.endswith("bit-equal") for line in lines[1:]), lines
    assert all("killed after" in line and " and " in line for line in lines[1:]), lines
