"""The examples of CONTRIBUTING.md run as they stand there."""

import re
from pathlib import Path

import pytest
import torch

from recipes.cli import main

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.py)`\n\n```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
SCRIPTS = [
    code
    for code in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    if code not in FILES.values()
]
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
STEER = [line.split()[1:] for line in COMMANDS if line.startswith(".venv/bin/steer")]
SMALL = {
    "sample": ["particles=16", "sampler.steps=4"],
    "train": [
        "model.network.width=8",
        "data.batch_size=8",
        "trainer.max_steps=4",
        "loop.objective.diag_only_steps=1",
    ],
}


@pytest.fixture(autouse=True)
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in FILES.items():
        path = tmp_path / Path(name).name
        path.write_text(code)


def test_they_are_found():
    names = {"last_step.py", "two_jumps.py", "toward.py", "jump_sde.py", "reward_weighted.py"}
    names.add("two_moons.py")
    assert names <= FILES.keys()
    assert len(STEER) >= 3
    assert len(SCRIPTS) >= 2


@pytest.mark.parametrize("words", STEER, ids=" ".join)
def test_commands(words, capsys):
    more = SMALL[words[0]] + (["trainer.accelerator=cpu"] if words[0] == "train" else [])
    if any(word.startswith("model.network.condition.") for word in words):
        more = [*more, "model.network.condition.dim=8"]
    assert main([*words, *more, "--quiet"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", SCRIPTS)
def test_scripts(code):
    space: dict = {}
    exec(code, space)
    assert torch.isfinite(space["x"]).all()
