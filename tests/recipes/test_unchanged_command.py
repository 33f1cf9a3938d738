"""Metrics of the commands on small runs, to the last bit."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unchanged"))
from digest import unchanged
from test_recipe_train import BOARD, TUNE
from test_recipe_verify import ENOUGH, JUMP, WORDS

RING = ["ring/steer", "particles=64", "sampler.steps=12", "base.steps=8", "model.steps=8"]
CONTEST = ["ring/compare", "particles=16", "model.steps=4", "budgets=[13]", "seeds=2"]
UNSURE = {"seconds", "versions", "command", "cpu_seconds", "folder", "config", "date"}


def settled(value):
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {k: settled(v) for k, v in value.items() if k not in UNSURE and "seconds" not in k}
    return [settled(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample", ["sample", *RING]),
        ("compare", ["compare", *CONTEST]),
        ("train", BOARD),
        ("verify", [*WORDS, *JUMP, *ENOUGH]),
    ],
)
def test_commands(steer, name, words):
    folder = steer(*words)
    unchanged(f"command: {name}", settled(json.loads(Path(folder, "metrics.json").read_text())))


def test_tune(steer, plane):
    Path("tune.yaml").write_text(TUNE)
    unchanged("command: tune", settled(steer.metrics("tune", "tune.yaml")))


def test_images(steer, fashion):
    words = ["sample", "fashion/steer", *fashion, "sampler.steps=3", "base.steps=2", "particles=4"]
    unchanged("command: sample fashion/steer", settled(steer.metrics(*words)))
