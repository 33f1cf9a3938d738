"""Kept cells know how they were made; docs/results.md is what the generator makes of them, and
nothing on it is stale.
"""

import ast
import json
import re
from pathlib import Path

import pytest

from recipes.experiments import cells as module
from recipes.experiments import results
from recipes.experiments.cells import Cells, digests, shipped

ROOT = Path(__file__).parents[2]
TIMES_ONLY = {"overhead"}  # which do not depend on what the weights are


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with shipped weights a and b."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("a", b"one"), ("b", b"two")):
        path = Path(f"steer/weights/{name}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def retrain(name):
    Path(f"steer/weights/{name}.safetensors").write_bytes(b"three")


# --- cells --------------------------------------------------------------------------------------
def test_a_cell_is_measured_once_and_remembers_how(repository):
    kept = Cells("figure", ("a",))
    assert kept.get("x", lambda: 1.5) == 1.5
    assert kept.get("y", lambda: [2]) == [2]
    again = Cells("figure", ("a",))
    assert again.get("x", pytest.fail) == 1.5
    (record,) = json.loads(Path("docs/figures/figure.json").read_text())["provenance"]
    assert record["cells"] == ["x", "y"]
    assert record["weights"] == digests(("a",))
    assert record["weights"]["a"] == "7692c3ad3540"  # of SHA-256("one")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["date"])
    assert record["commit"] == "unknown"  # no git here
    assert record["command"].startswith("python ")


def test_a_cell_of_other_weights_is_measured_again_and_said_to_be(repository, capsys):
    Cells("figure", ("a", "b")).get("x", lambda: 1)
    retrain("a")
    kept = Cells("figure", ("a", "b"))
    then, now = kept.stale()["a"]
    assert kept.stale().keys() == {"a"}
    assert kept.get("x", lambda: 2) == 2
    assert f"x: measured again, it has a {then}, shipped is {now}" in capsys.readouterr().out
    assert Cells("figure", ("a", "b")).stale() == {}
    assert Cells("figure", ("b",)).get("x", pytest.fail) == 2


def test_a_cell_without_a_record_is_not_taken_for_valid(repository):
    kept = Cells("figure", ("a",))
    kept.cells["x"] = 1
    assert kept.get("x", lambda: 2) == 2
    kept = Cells("other")
    kept.cells["x"] = 1
    assert kept.get("x", pytest.fail) == 1  # it depends on no weights


def test_weights_that_change_while_a_cell_is_measured_spoil_it(repository):
    with pytest.raises(SystemExit, match="weights changed while it was measured"):
        Cells("figure", ("a",)).get("x", lambda: retrain("a"))
    assert not Path("docs/figures/figure.json").exists()


def test_cells_that_are_not_asked_for_are_pruned(repository):
    kept = Cells("figure", ("a",))
    kept.get("x", lambda: 1)
    kept.get("y", lambda: 2)
    later = Cells("figure", ("a",))
    later.get("y", pytest.fail)
    later.prune()
    found = Cells("figure", ("a",))
    assert found.cells == {"y": 2}
    assert [record["cells"] for record in found.provenance] == [["y"]]


def test_weights_that_are_not_shipped_are_named(repository):
    with pytest.raises(ValueError, match="no weights are shipped as 'c'"):
        Cells("figure", ("c",))


# --- the page -----------------------------------------------------------------------------------
def test_a_block_says_command_date_commit_and_weights(repository):
    kept = Cells("figure", ("a",))
    record = {
        "command": "make x",
        "date": "2026-01-02",
        "commit": "abc",
        "weights": digests(("a",)),
    }
    kept.put("x", 1, record)
    kept.put("y", 1, {**record, "date": "2026-01-05", "commit": "def"})
    assert (
        results.made(kept)
        == "`make x`; 2026-01-02 to 2026-01-05; commit abc, def; weights a 7692c3ad3540."
    )


def test_a_change_of_weights_marks_the_block(in_root, monkeypatch):
    real = module.digests
    monkeypatch.setattr(
        module,
        "digests",
        lambda names: {**real(names), **({"fashion": "0"} if "fashion" in names else {})},
    )
    text = results.block("fashion_map")
    assert re.search(
        r"\*\*STALE: measured on fashion \w{12}, shipped is 0; run `python -m recipes", text
    )
    assert "STALE" not in results.block("ring_tilting")
    assert "(stale)" in results.summary()


def test_a_page_has_a_block_for_every_figure(in_root):
    with pytest.raises(ValueError, match="has blocks for"):
        results.page("<!-- results: ring_lobes -->\n<!-- /results -->\n")


def test_the_pages_are_what_the_generator_makes(in_root):
    late = [str(path) for path, text in results.pages().items() if path.read_text() != text]
    assert not late, "run make results"


@pytest.mark.parametrize("name", results.FIGURES)
def test_no_figure_is_stale(in_root, name):
    """And none lacks a cell but those that are said to, with the reason."""
    faults = results.faults(name)
    assert not [fault for fault in faults if fault.startswith("STALE")]
    assert bool(faults) == (name in results.AWAITING)


@pytest.mark.parametrize("name", results.FIGURES)
def test_a_figure_declares_the_weights_that_it_names(in_root, name):
    """Every shipped name in the script, or in what it takes from other scripts."""
    script = results.figure(name)
    strings = {
        node.value
        for node in ast.walk(ast.parse(Path(script.__file__).read_text()))
        if isinstance(node, ast.Constant)
    }
    named = (strings | {value for value in vars(script).values() if isinstance(value, str)}) & set(
        shipped()
    )
    assert name in TIMES_ONLY or named <= set(getattr(script, "WEIGHTS", ()))


def test_make_figures_runs_every_script(in_root):
    listed = (
        re.search(r"FIGURES := ((?:.*\\\n)*.*)", Path("Makefile").read_text())[1]
        .replace("\\\n", " ")
        .split()
    )
    assert sorted(listed) == sorted(results.FIGURES)
    scripts = {
        path.stem
        for path in Path("recipes/experiments").glob("*.py")
        if "def main(" in path.read_text()
    }
    assert scripts == {
        *results.FIGURES,
        "results",
        "strengths",  # which tunes the baselines, and makes no figure
        "scenes_world",  # whose sheet is on docs/scenes.md
        "notebooks",  # of the tutorials
    }
