"""steer list and copy."""

from pathlib import Path

from recipes.cli import main
from recipes.setup import config


def test_list_shows_every_config(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in config.shipped())


def test_a_copy_runs_like_the_original(steer):
    assert main(["copy", "ring/steer", "mine/ring.yaml"]) == 0
    Path("folder").mkdir()
    assert main(["copy", "ring/steer", "folder"]) == 0
    assert Path("folder/steer.yaml").read_text() == Path("mine/ring.yaml").read_text()
    steer.capsys.readouterr()
    small = ["particles=8", "sampler.steps=2", "base.steps=1", "model.steps=4"]
    assert steer("sample", "mine/ring.yaml", *small) == "runs/ring"
