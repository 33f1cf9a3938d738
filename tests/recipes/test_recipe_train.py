"""steer train, tune and evaluate: what they leave, and that a killed run ends like one that was
left alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.cli import main
from recipes.reporting.html import number
from rewards import load_classifier
from steer import checkpoint
from steer.loops import read_csv_log

ROOT = Path(__file__).parents[2]
BOARD = [
    "train",
    "checkerboard/train",
    "model.network.width=8",
    "model.network.depth=1",
    "data.batch_size=16",
    "particles=64",
    "trainer.accelerator=cpu",
    "trainer.max_steps=40",
    "loop.objective.diag_only_steps=10",
    "checkpoint_every=15",
    "pictures.every=20",
    "trainer.log_every_n_steps=5",
]
TUNE = """
model: plane.safetensors
particles: 32
reward: {_target_: rewards.Linear, direction: [1.0, 1.0]}
heldout: {_target_: rewards.Linear, direction: [1.0, 0.0]}
loop:
  _target_: steer.loops.RewardTuning
  objective: {_target_: steer.tuning.Direct}
  batch_size: 8
  lr: 0.01
trainer: {max_steps: 30, accelerator: cpu, log_every_n_steps: 5}
checkpoint_every: 10
watch_every: 10
sampler: {_target_: steer.samplers.Jump, steps: 2}
"""


FILES = {
    "config.yaml",
    "metrics.json",
    "map.safetensors",
    "last.ckpt",
    "grid.png",
    "curves.png",
    "report.html",
}


def weights(folder):
    return load_file(f"{folder}/map.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_from_given_weights(steer):
    first = steer(*BOARD)
    again = steer(*BOARD, f"start={first}", "trainer.max_steps=1", "loop.lr=1e-12")
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, weights(first)[name], rtol=0, atol=1e-9)
    assert checkpoint.read_header(f"{again}/map.safetensors")["start"] == first
    problem = steer.fails(*BOARD, f"start={first}", "model.network.width=9")
    assert "network.first.bias should be (9,) and is (8,); build both alike" in problem


def test_the_last_step_is_logged_whatever_the_interval(steer):
    """At the end of the steps, and of the epochs; log_every_n_steps=0 logs nothing."""
    short = [*BOARD, "trainer.max_steps=7", "pictures=null"]
    metrics = steer.metrics(*short, "trainer.log_every_n_steps=50")
    assert metrics["logged"]["train/loss"] > 0
    logged = read_csv_log("runs/checkerboard-train/log.csv")["train/loss"]
    assert list(logged) == [6]
    longer = [*short[:-2], "trainer.max_steps=12", "pictures=null", "trainer.log_every_n_steps=5"]
    assert list(read_csv_log(f"{steer(*longer)}/log.csv")["train/loss"]) == [4, 9, 11]
    epochs = ["trainer.max_epochs=2", "trainer.limit_train_batches=3"]
    folder = steer(*longer, "trainer.max_steps=-1", *epochs)
    assert list(read_csv_log(f"{folder}/log.csv")["train/loss"]) == [4, 5]
    assert "log.csv" not in {
        p.name for p in Path(steer(*short, "trainer.log_every_n_steps=0")).iterdir()
    }


def test_training_goes_on_from_a_run_that_never_ended(steer):
    """It leaves last.ckpt alone, whose averaged weights are those of the map it would have left."""
    first = steer(*BOARD)
    kept = weights(first)
    Path(first, "map.safetensors").unlink()
    problem = steer.fails(*BOARD, f"start={first}", "model.network.width=9")
    assert "network.first.bias should be (9,) and is (8,); build both alike" in problem
    unfinished = steer(*BOARD, f"start={first}", "trainer.max_steps=1", "loop.lr=1e-12")
    for name, weight in weights(unfinished).items():
        torch.testing.assert_close(weight, kept[name], rtol=0, atol=1e-9)


def test_training_leaves_a_map_that_loads(steer, capsys):
    folder = Path(steer(*BOARD))
    left = {path.name for path in folder.iterdir()}
    assert left >= {
        "config.yaml",
        "metrics.json",
        "map.safetensors",
        "last.ckpt",
        "grid.png",
        "curves.png",
        "report.html",
    }
    assert {path.name for path in (folder / "pictures").iterdir()} >= {
        "step_000020_1_jump.png",
        "step_000040_4_jumps.png",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["parameters"] == 8 * 4 + 8 + 2 * 8 + 2
    assert metrics["logged"]["train/loss"] > 0
    header = checkpoint.read_header(folder / "map.safetensors")
    assert header["shape"] == [2]
    assert header["seed"] == 0
    assert "checkerboard/train" in header["command"]
    assert (
        steer.metrics("sample", "checkerboard/sample", "particles=16", "sampler.steps=3")["claim"]
        == "exact"
    )
    evaluated = steer.metrics(
        "evaluate", "checkerboard/evaluate", "particles=200", "reference.draws=500"
    )
    assert evaluated["samplers"].keys() == {
        *(f"{k}_jumps" for k in (2, 4, 8, 16)),
        "1_jump",
        "64-step_ode",
    }
    assert evaluated["samplers"]["4_jumps"]["network_forward"] == 4
    assert (
        evaluated["floor"]["energy_distance"] < evaluated["samplers"]["1_jump"]["energy_distance"]
    )
    few = ["particles=200", "reference.draws=500", "samplers.64-step_ode=null"]
    assert main(["evaluate", "checkerboard/evaluate", *few]) == 0
    assert f"grid kl, 4 jumps: {number(evaluated['samplers']['4_jumps']['grid_kl'])}" in (
        capsys.readouterr().err.splitlines()
    )


def test_a_run_stopped_and_resumed_equals_one_that_was_not(steer):
    steer(*BOARD, "run.dir=whole")
    steer(*BOARD, "run.dir=parts", "trainer.max_steps=20")
    assert steer(*BOARD, "run.dir=parts", "run.resume=true") == "parts"
    assert equal(weights("whole"), weights("parts"))
    again = [*BOARD, "run.dir=parts", "run.resume=true"]
    assert "other settings, of loop.lr (0.001 before, 0.1 now); resume" in steer.fails(
        *again, "loop.lr=0.1"
    )
    Path("parts/last.ckpt").write_bytes(b"half")
    assert "last.ckpt is damaged" in steer.fails(*BOARD, "run.dir=parts", "run.resume=true")
    assert not equal(weights("whole"), weights(steer(*BOARD, "run.dir=other", "seed=1")))


def kill_and_resume(steer, words):
    """Runs the command in a process of its own, kills it once it has a checkpoint, and resumes it
    in this one.
    """
    words = [*words, "run.dir=killed"]
    last = Path("killed/last.ckpt")
    command = [sys.executable, "-m", "recipes.cli", *words, "--quiet"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and not last.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = torch.load(last, weights_only=True)["global_step"]
    assert steer(*words, "run.resume=true") == "killed"
    return before


@pytest.mark.slow
def test_killed_while_training(steer):
    words = [*BOARD, "trainer.max_steps=200", "pictures=null"]
    step = kill_and_resume(steer, words)
    assert 0 < step < 200
    steer(*words, "run.dir=whole")
    assert equal(weights("killed"), weights("whole"))


@pytest.mark.slow
def test_killed_while_tuning(steer, plane):
    Path("tune.yaml").write_text(TUNE)
    words = ["tune", "tune.yaml", "trainer.max_steps=200"]
    step = kill_and_resume(steer, words)
    assert 0 < step < 200
    metrics = steer.metrics(*words, "run.dir=whole")
    assert equal(weights("killed"), weights("whole"))
    assert (
        metrics["evaluations"] == json.loads(Path("killed/metrics.json").read_text())["evaluations"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_training(steer, number, code, processes):
    """One process is told and all stop, with a checkpoint though none was due."""
    words = [*BOARD, "trainer.max_steps=100000", "pictures=null", "checkpoint_every=100000"]
    if processes == 2:
        words += ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    command = [sys.executable, "-m", "recipes.cli", *words]
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # which a shell's background jobs are deaf to
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    )
    folder = Path("runs/checkerboard-train")
    while process.poll() is None and not (folder / "log.csv").exists():
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == code
    assert "Traceback" not in err
    assert "run.resume=true" in err
    assert (folder / "last.ckpt").exists()


def test_a_classifier(steer, clothes):
    words = [
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "data.folder=clothes",
        "data.batch_size=8",
    ]
    words += ["model.width=8", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"]
    metrics = steer.metrics("train", "fashion/classifier", *words)
    assert 0 <= metrics["logged"]["val/accuracy"] <= 1
    classifier = load_classifier("runs/fashion-classifier/classifier.safetensors")
    assert classifier.settings["width"] == 8


def test_an_image_map(steer, clothes):
    words = [
        "trainer.max_steps=2",
        "data.folder=clothes",
        "data.batch_size=4",
        "model.network.channels=[8]",
    ]
    words += [
        "model.network.condition.dim=32",
        "loop.objective.diag_only_steps=0",
        "trainer.precision=32-true",
    ]
    steer(
        "train",
        "fashion/train",
        *words,
        "particles=2",
        "pictures.every=2",
        "trainer.log_every_n_steps=1",
    )
    assert checkpoint.load("runs/fashion-train").network.condition.classes == 10


def test_evaluating_images(steer, fashion, clothes):
    data = ["reference.test.folder=clothes", "reference.train.folder=clothes"]
    judge = "reference.judge.name_or_path=judge.safetensors"
    metrics = steer.metrics("evaluate", "fashion/evaluate", fashion[0], judge, *data, "particles=2")
    assert metrics["samples"] == 20
    assert metrics["samplers"].keys() == {"1_jump", "2_jumps", "4_jumps", "8_jumps", "64-step_ode"}
    for figures in (*metrics["samplers"].values(), metrics["floor"]):
        assert figures["frechet_distance"] >= 0
        assert 0 <= figures["judge_accuracy"] <= 1
    untold = steer.metrics(
        "evaluate",
        "fashion/evaluate",
        fashion[0],
        judge,
        *data,
        "particles=2",
        "condition.model=false",
    )
    assert "judge_accuracy" not in untold["samplers"]["1_jump"]


@pytest.mark.parametrize("how", ["weights", "lora"])
def test_tuning_raises_the_reward(steer, plane, how):
    Path("tune.yaml").write_text(TUNE)
    lora = ["lora._target_=steer.tuning.add_lora", "lora.rank=2"] if how == "lora" else []
    folder = Path(steer("tune", "tune.yaml", *lora))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["reward_mean"] > metrics["base_reward_mean"]
    assert metrics["heldout_reward_mean"] > metrics["base_heldout_reward_mean"]
    assert metrics["evaluations"]["reward_backward"] == 30 * 8
    assert "watch/heldout_reward_mean" in (folder / "log.csv").read_text()
    if how == "lora":
        check_adapters(steer, folder, metrics)
        return
    assert metrics["tuned_parameters"] == metrics["parameters"]
    assert weights(folder).keys() == load_file(plane).keys()
    assert not equal(weights(folder), load_file(plane))
    assert checkpoint.read_header(folder / "map.safetensors")["base"] == plane


def check_adapters(steer, folder, metrics):
    """Adapters alone are kept, a map with them loads, draws and is tuned further; merged weights
    are the same map.
    """
    assert not (folder / "map.safetensors").exists()
    assert metrics["parameters"] == 4 * 8 + 8 + 8 * 2 + 2
    assert metrics["tuned_parameters"] == 2 * (4 + 8) + 2 * (8 + 2)
    assert "44 (75.9 %)" in (folder / "report.html").read_text()
    lora = ["lora._target_=steer.tuning.add_lora", "lora.rank=2"]
    merged = Path(steer("tune", "tune.yaml", *lora, "merge=true"))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    found = checkpoint.load(folder)(x, 0.0, 1.0)
    torch.testing.assert_close(checkpoint.load(merged / "map.safetensors")(x, 0.0, 1.0), found)
    assert torch.equal(checkpoint.load(merged / "adapters.safetensors")(x, 0.0, 1.0), found)
    further = steer.metrics("tune", "tune.yaml", f"model={folder}", *lora)
    assert further["base_reward_mean"] == pytest.approx(metrics["reward_mean"], rel=1e-5)


def test_a_scale_for_each_prompt_needs_something_to_tell_prompts_apart(steer, plane):
    Path("tune.yaml").write_text(TUNE)
    problem = steer.fails("tune", "tune.yaml", "prompts=2", "tilt.scale=[1,2]")
    assert "a tilt.scale for each prompt needs condition.labels" in problem


def test_tuning_images_untold(steer, fashion):
    small = [
        "particles=2",
        "loop.batch_size=4",
        "loop.objective.redrawn=2",
        "loop.objective.per_prompt=2",
        "trainer.max_steps=2",
        "watch_every=2",
        "trainer.accelerator=cpu",
        "reference=null",
    ]
    metrics = steer.metrics("tune", "fashion/tune", *fashion, *small)
    assert 0 <= metrics["judge_accuracy"] <= 1
    assert Path("runs/fashion-tune/watch/step_000002/grid.png").is_file()
    assert weights("runs/fashion-tune").keys() == load_file("images.safetensors").keys()


# --- Weights & Biases ---------------------------------------------------------------------------
def test_without_wandb_its_logger_is_refused_before_the_work(steer, monkeypatch):
    from recipes.training import trainer

    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    assert "logger=wandb needs wandb" in steer.fails(*BOARD, "logger=wandb")
    assert not Path("runs").exists()


def test_wandb_logs_beside_tensorboard_offline(steer, monkeypatch):
    """In wandb's own file of the run are the names that log.csv has."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = Path(steer(*BOARD, "logger=wandb"))
    (written,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    found = written.read_bytes()
    names = {line.split(",")[1] for line in (folder / "log.csv").read_text().splitlines()[1:]}
    assert len(names) > 1
    assert [name for name in names if name.encode() not in found] == []
    assert any((folder / "tensorboard").iterdir())
    assert list((written.parent / "files" / "media" / "images").glob("*.png"))
