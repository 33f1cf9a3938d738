"""`steer train` and `steer tune` as commands on two processes, to the report, with the figures that
one process has.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from launched import ended
from test_recipe_train import BOARD, TUNE

import rewards
from recipes.evaluation.metrics import Measure
from steer import checkpoint
from steer.data.stream import keyed_generator
from steer.loops import read_csv_log
from steer.samplers import Jump

TWO = ["trainer.devices=2", "trainer.accelerator=cpu"]
STRATEGIES = ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)]


def command(*words, strategy):
    """The run folder of a command on two processes."""
    code, out, err = ended([*words, *TWO, f"trainer.strategy={strategy}"])
    assert code == 0, err
    return Path(out.strip())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tuning_on_two_processes_ends_in_the_report_with_the_figures_of_one(steer, plane, strategy):
    """What is watched and reported is measured anew here, from the map that was kept: the same to
    the last bit.
    """
    Path("tune.yaml").write_text(TUNE + "prompts: 3\n")
    folder = command("tune", "tune.yaml", strategy=strategy)
    assert (folder / "report.html").is_file()
    assert {*os.listdir("runs")} == {folder.name, "index.html"}
    metrics = json.loads((folder / "metrics.json").read_text())

    x0 = torch.randn(3, 32, 2, generator=keyed_generator("x0", 0))
    result = Jump(2)(checkpoint.load(folder), x0, None, None, keyed_generator("tune", 0))
    reward = rewards.Linear([1.0, 1.0])
    heldout = rewards.Linear([1.0, 0.0])
    figures = Measure(reward, (heldout,), None, None, None)(result)
    assert figures["reward_std_error"] > 0
    for name in (
        "reward_mean",
        "reward_std_error",
        "heldout_reward_mean",
        "heldout_reward_std_error",
        "diversity",
    ):
        assert metrics[name] == figures[name]
    watched = read_csv_log(folder / "log.csv")
    assert list(watched["watch/reward_mean"]) == [10, 20, 30]
    assert watched["watch/reward_mean"][30] == figures["reward_mean"]
    assert watched["watch/diversity"][30] == figures["diversity"]
    assert metrics["evaluations"]["reward_backward"] == 2 * 30 * 8


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_training_on_two_processes_ends_in_the_report(steer, strategy):
    few = ["trainer.max_steps=10", "identities=5", "pictures.every=5"]
    folder = command(*BOARD, *few, strategy=strategy)
    assert (folder / "report.html").is_file()
    assert {*os.listdir("runs")} == {folder.name, "index.html"}
    assert checkpoint.load(folder)
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 10
