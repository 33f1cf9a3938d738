"""steer list and copy."""

import inspect
import re
from pathlib import Path

import pytest

from recipes.cli import KINDS, main
from recipes.list import ROOMS, entries, resolved
from recipes.setup import config
from steer import checkpoint

SUMMING = """
__all__ = ["Summing", "twice", "LIMIT"]
from steer.samplers.base import Sampler

LIMIT = 3

class Summing(Sampler):
    '''Adds up.

    More of it.
    '''

    claim = "biased"

    def __init__(self, terms, scale=2.0):
        pass

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        return None

def twice(terms=3) -> Summing:
    '''The same, by a function.'''
    return Summing(terms)
"""


def shown(capsys, *words):
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


def test_the_overview_shows_every_config_map_and_classifier_and_the_names_of_all_rooms(capsys):
    out = shown(capsys)
    for name in (*config.shipped(), *checkpoint.shipped(), "fashion-patch"):
        assert f"  {name}  " in out
    for name in ("TrajectoryTilting", "tds", "Brightness", "MapJump", "Direct", "Mlp", *KINDS):
        assert name in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("kind", ROOMS)
def test_every_concrete_class_is_listed_once_with_its_arguments(capsys, kind):
    out = shown(capsys, kind)
    listed = re.findall(r"^\n  (\w+)(?: \[.*?\])?:", out, re.MULTILINE)
    names = [entry.name for entry in entries(ROOMS[kind])]
    assert listed == names
    assert len(set(names)) == len(names)
    classes = {entry.found for entry in entries(ROOMS[kind]) if inspect.isclass(entry.found)}
    home = ROOMS[kind].package
    exported = {
        cls
        for base in ROOMS[kind].bases
        for cls in subclasses(resolved(base))
        if cls.__module__.startswith(f"{home}.") and not inspect.isabstract(cls)
        if cls.__name__ in getattr(inspect.getmodule(cls), "__all__", [])
    }
    assert classes - exported <= {resolved(base) for base in ROOMS[kind].bases}
    assert exported <= classes


def subclasses(base):
    """All of them, in modules that are loaded."""
    return {c for direct in base.__subclasses__() for c in {direct, *subclasses(direct)}}


def test_a_new_file_of_a_package_is_listed_without_another_line_anywhere(
    capsys, tmp_path, monkeypatch
):
    (tmp_path / "summing.py").write_text(SUMMING)
    package = tmp_path.name
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path.parent))
    monkeypatch.setitem(
        ROOMS,
        "samplers",
        ROOMS["samplers"].__class__(package, ("steer.samplers.Sampler",), "sampler"),
    )
    out = shown(capsys, "samplers")
    assert "  Summing [biased]: Adds up.\n      terms, scale=2.0\n" in out
    assert "  twice [biased]: The same, by a function.\n      terms=3\n" in out
    assert "More of it" not in out
    assert "LIMIT" not in out


def test_claims_and_missing_gradients_are_shown(capsys):
    assert "Jump [exact]: " in shown(capsys, "samplers")
    assert "JpegSize [no gradient]: " in shown(capsys, "rewards")


def test_models_and_configs(capsys):
    models = shown(capsys, "models")
    assert "fashion-residual" in models
    assert "  UNet: " in models
    assert "fashion/tune" in shown(capsys, "configs")


@pytest.mark.parametrize(("kind", "near"), [("sampler", "samplers"), ("Rewards", "rewards")])
def test_an_unknown_kind_is_one_line_with_the_nearest(steer, kind, near):
    said = steer.fails("list", kind)
    assert kind in said
    assert f"did you mean '{near}'?" in said
    assert "samplers, rewards" in steer.fails("list", "xyz")


def test_a_copy_runs_like_the_original(steer):
    assert main(["copy", "ring/steer", "mine/ring.yaml"]) == 0
    Path("folder").mkdir()
    assert main(["copy", "ring/steer", "folder"]) == 0
    assert Path("folder/steer.yaml").read_text() == Path("mine/ring.yaml").read_text()
    steer.capsys.readouterr()
    small = ["particles=8", "sampler.steps=2", "base.steps=1", "model.steps=4"]
    assert steer("sample", "mine/ring.yaml", *small) == "runs/ring"
