"""The command, run in this process, in an empty folder, on maps too small to be slow."""

import json

import pytest
import torch
from clothing import leave

from recipes.cli import main
from rewards import save_classifier
from rewards.networks import PatchClassifier, ResidualClassifier
from steer import checkpoint
from steer.build import build

torch.set_num_threads(1)

LINEAR = {"_target_": "steer.interpolant.Linear"}
PLANE = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {"_target_": "steer.networks.Mlp", "width": 8, "depth": 1},
    "schedule": LINEAR,
}
CLASSES = {"_target_": "steer.networks.ClassCondition", "classes": 10, "dim": 32}
IMAGES = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {
        "_target_": "steer.networks.UNet",
        "channels": [8],
        "blocks": 1,
        "condition": CLASSES,
    },
    "schedule": LINEAR,
}


class Steer:
    """The command `steer`, and what it left."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *words):
        """Runs it, expects success, and returns the run folder."""
        code = main([*words, "--quiet"])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out.strip()

    def metrics(self, *words):
        """Runs it, expects success, and returns metrics.json."""
        with open(f"{self(*words)}/metrics.json") as file:
            return json.load(file)

    def fails(self, *words):
        """Runs it, expects one line on standard error and exit code 2, and returns the line."""
        try:
            code = main(words)
        except SystemExit as end:  # argparse's way
            code = end.code
        out, err = self.capsys.readouterr()
        assert code == 2
        assert not out
        assert err.startswith("steer: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("steer: error: ").strip()


@pytest.fixture
def steer(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Steer(capsys)


@pytest.fixture
def plane(tmp_path):
    """A map of the plane that has learned nothing."""
    torch.manual_seed(0)
    checkpoint.save(build(PLANE), tmp_path / "plane.safetensors", PLANE, shape=[2])
    return "plane.safetensors"


@pytest.fixture
def fashion(tmp_path):
    """Arguments that put tiny networks in the place of the shipped ones."""
    torch.manual_seed(0)
    checkpoint.save(build(IMAGES), tmp_path / "images.safetensors", IMAGES, shape=[1, 28, 28])
    save_classifier(tmp_path / "steer.safetensors", ResidualClassifier(width=8))
    save_classifier(tmp_path / "judge.safetensors", PatchClassifier(width=8, depth=1))
    return [
        "model=images.safetensors",
        "reward.classifier.name_or_path=steer.safetensors",
        "judge.name_or_path=judge.safetensors",
    ]


@pytest.fixture
def clothes(tmp_path):
    """A folder that looks like Fashion-MNIST."""
    leave(tmp_path / "clothes")
    return "clothes"
