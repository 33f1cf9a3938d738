"""Bad input ends in one line that names it, with exit code 2, before any run folder is made."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.cli import how_to_resume, main
from recipes.setup import run_directory
from steer import checkpoint

ROOT = Path(__file__).parents[2]
RING = ["sample", "ring/steer", "particles=8", "sampler.steps=3", "base.steps=2", "model.steps=4"]
REWARDS = """
import functools
import torch
def crooked(x):
    return x
def loose(x):
    raise KeyError("lost")
def wrong_type(x):
    return 1.0
def later_nan(x):
    return torch.where(torch.arange(len(x)) == 5, torch.nan, x[:, 0])
def two(x, y, z):
    return x[:, 0]
partly = functools.partial(loose)
number = 3
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "ring/ster"], "no config is called 'ring/ster'; did you mean 'ring/steer'"),
        (["sample", "fashion/train"], "fashion/train is a config for train, not for sample"),
        (["sampel", "ring/steer"], "invalid choice: 'sampel'"),
        (["sample"], "CONFIG"),
        ([*RING, "--quick"], "unrecognized arguments: --quick"),
        ([*RING, "--particles", "2"], "keys have no dashes: write particles=2, not --particles 2"),
        ([*RING, "--tilt.scale", "-1"], "write tilt.scale=-1, not --tilt.scale -1"),
        (
            [*RING, "reward=Brightness"],
            "reward=Brightness has no package; did you mean rewards.Brightness?",
        ),
        (
            [*RING, "reward._target_=jpegsize"],
            "reward._target_=jpegsize has no package; did you mean rewards.JpegSize",
        ),
        ([*RING, "sampler=sde"], "sampler=sde has no package; did you mean steer.samplers.Sde?"),
        (
            [*RING, "sampler.lookahead=MapJmp"],
            "sampler.lookahead=MapJmp has no package; did you mean steer.lookahead.MapJump",
        ),
        (
            ["tune", "fashion/tune", "loop.objective=Direct"],
            "loop.objective=Direct has no package; did you mean steer.tuning.Direct",
        ),
        (
            [*RING, "reward=xyzzy"],
            "reward=xyzzy has no package; write package.Name or file.py:Name; `steer list`",
        ),
        ([*RING, "particels=3"], "knows no key 'particels'; did you mean 'particles'"),
        ([*RING, "particles=some"], "particles is a whole number, at least 1; got 'some'"),
        (
            [*RING, "particles=0"],
            "particles is a whole number, at least 1; got 0; set it with particles=...",
        ),
        ([*RING, "prompts=0"], "prompts is a whole number, at least 1 or a string; got 0"),
        ([*RING, "sampler.steps=0"], "sampler.steps: TrajectoryTilting needs at least one step"),
        (
            [*RING, "sampler.stepz=3"],
            "sampler.stepz: steer.samplers.TrajectoryTilting takes no argument 'stepz'; did you"
            " mean",
        ),
        ([*RING, "sampler._target_=steer.samplers.Odee"], "did you mean 'Ode'"),
        (
            [*RING[:2], "sampler._target_=steer.samplers.Tempering"],
            "sampler is a Sampler (a _target_ that builds one, such as ",
        ),
        (
            [*RING, "sampler.max_batch=lots"],
            "sampler.max_batch is a whole number or null; got 'lots'; left out, it is null",
        ),
        ([*RING, "tilt.scale=[1,2]"], "tilt.scale has 2 numbers for 1 prompts"),
        ([*RING, "device=warp"], "device 'warp' cannot be used"),
        ([*RING, "model=nowhere"], "no map is called 'nowhere'"),
        ([*RING, "model=nowhere.safetensors"], "there is no checkpoint nowhere.safetensors"),
        ([*RING, "model=rewards.py"], "no map is called 'rewards.py'"),
        ([*RING, "model=bad.safetensors"], "not a readable safetensors file"),
        (
            [*RING[:-1], "model._target_=rewards.Brightness"],
            "model is a string or a FlowMap (a _target_ that builds one",
        ),
        ([*RING, "reward=nowhere.py:f"], "there is no file nowhere.py"),
        ([*RING, "reward=rewards.py:loos"], "has no 'loos'; did you mean 'loose'"),
        (
            [*RING, "reward=rewards.py:tarch"],
            "has no 'tarch'; there are: crooked, later_nan, loose, number, partly, two, wrong_type",
        ),
        ([*RING, "tilt.scal=1"], "knows no key 'tilt.scal'; did you mean 'tilt.scale'"),
        ([*RING, "reward=rewards.py:loose"], "reward 'loose' raised KeyError: 'lost'"),
        (
            [*RING, "reward=rewards.py:crooked"],
            "expected a tensor of shape (1,), one number per sample",
        ),
        (
            [*RING, "reward=rewards.py:wrong_type"],
            "expected a tensor of shape (1,), one number per sample, got float",
        ),
        ([*RING, "reward=rewards.py:two"], "expected arguments (x) or (x, cond)"),
        ([*RING, "reward=rewards.py:number"], "expected a reward"),
        ([*RING, "reward=rewards.Britness"], "did you mean 'Brightness'"),
        ([*RING, "reward=rewards.Quadratic"], "Quadratic needs center, precision"),
        (
            [*RING, "reward=rewards.Brightness"],
            "the reward Brightness cannot take samples of shape (2,)",
        ),
        (
            [*RING, "heldout=rewards.Brightness"],
            "the reward Brightness cannot take samples of shape (2,)",
        ),
        ([*RING, "run.dir=bad.safetensors/run"], "cannot write the run folder bad.safetensors/run"),
        (["copy", "ring/ster", "x.yaml"], "did you mean 'ring/steer'"),
        (["copy", "ring/steer", "bad.safetensors"], "bad.safetensors exists already"),
        (
            ["train", "checkerboard/train", "run.resume=true"],
            "there is no run runs/checkerboard-train to resume",
        ),
        (["train", "checkerboard/train", "trainer.max_step=2"], "did you mean 'max_steps'"),
        (
            ["train", "checkerboard/train", "trainer.accelerator=abacus"],
            "Available names are: auto",
        ),
        (
            ["train", "checkerboard/train", "trainer.logger=true"],
            "trainer.logger is set by the recipe",
        ),
        (["train", "checkerboard/train", "loop.lr=-1.0"], "loop.lr: lr must be positive"),
        (
            ["train", "fashion/classifier", "data.folder=nowhere"],
            "no t10k-images-idx3-ubyte.gz in nowhere",
        ),
        (["tune", "fashion/tune", "model=nowhere"], "no map is called 'nowhere'"),
        (
            [*RING, "condition.labels=[3,a hat]", "condition.names=null"],
            "condition.labels holds numbers or texts; got 3 and 'a hat' together: give one kind",
        ),
    ],
)
def test_one_line(steer, words, says):
    Path("rewards.py").write_text(REWARDS)
    Path("bad.safetensors").write_text("not weights")
    assert says in steer.fails(*words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sample", "type steer sample CONFIG model=runs/mine;"),
        ("tune", "type steer tune CONFIG model=runs/mine;"),
        ("train", "type steer train CONFIG start=runs/mine;"),
    ],
)
def test_a_run_folder_is_no_config(steer, command, says):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text("seed: 0")
    found = steer.fails(command, "runs/mine")
    assert found.startswith("runs/mine is a run folder, and a config comes first: ")
    assert says in found


def test_a_reward_that_is_nan_names_the_sample_and_the_time(steer):
    Path("rewards.py").write_text(REWARDS)
    says = steer.fails(*RING, "reward=rewards.py:later_nan")
    assert says.startswith("later_nan is nan for sample 5 at t = 0")


def test_a_checkpoint_of_another_shape(steer, plane, fashion):
    says = steer.fails(
        "sample", "fashion/steer", *fashion, f"model={plane}", "particles=2", "sampler.steps=2"
    )
    assert "expected images of 1 channels" in says
    assert "the model cannot take samples of shape (3,)" in steer.fails(
        *RING[:-1], f"model={plane}", "shape=[3]"
    )
    module = checkpoint.load_module(plane)
    module.network.first.weight.data = torch.zeros(9, 4)
    recipe = checkpoint.read_header(plane)["build"]
    checkpoint.save(module, "wrong.safetensors", recipe, shape=[2])
    assert "does not fit its own" in steer.fails(*RING, "model=wrong.safetensors")
    checkpoint.save(checkpoint.load_module(plane), "shapeless.safetensors", recipe)
    assert "give it, as in shape=" in steer.fails(*RING, "model=shapeless.safetensors")
    assert main([*RING, "model=shapeless.safetensors", "shape=[2]", "--quiet"]) == 0


def test_only_trained_maps_are_tuned(steer):
    ring = [
        "model._target_=steer.analytic.ring",
        "condition.labels=null",
        "judge=null",
        "heldout=null",
        "reference=null",
    ]
    assert "only a trained map" in steer.fails(
        "tune",
        "fashion/tune",
        *ring,
        "reward._target_=rewards.Linear",
        "reward.direction=[1,0]",
        "reward_decode=null",
    )


def test_traceback_on_request(steer):
    with pytest.raises(ValueError, match="no map is called"):
        main([*RING, "model=nowhere", "--traceback"])


SAMPLER = """
import random
from steer.samplers import Jump
class Broken(Jump):
    def __call__(self, *args, **kwargs):
        return random.choice(list(kwargs))
"""


def test_an_exception_in_a_file_of_ones_own_is_one_line_that_says_where(steer, capsys):
    Path("mine.py").write_text(SAMPLER)
    broken = [
        *RING[:2],
        "particles=8",
        "base.steps=2",
        "model.steps=4",
        "sampler._target_=mine.py:Broken",
    ]
    assert main([*broken, "--quiet"]) == 3
    says = capsys.readouterr().err
    where = Path("mine.py").resolve()
    assert says.splitlines()[-1].startswith(f"steer: error: IndexError at {where}:6, in __call__: ")
    with pytest.raises(IndexError):
        main([*broken, "--quiet", "--traceback"])


def test_interrupted(steer, plane, monkeypatch, capsys):
    monkeypatch.setattr("steer.samplers.Jump.__call__", interrupt)
    assert main([*RING, f"model={plane}", "base._target_=steer.samplers.Jump"]) == 130
    assert "nothing of it was kept" in capsys.readouterr().err


def test_a_run_that_is_interrupted_says_how_to_go_on_where_there_is_something_to_go_on_from(
    steer, monkeypatch, capsys
):
    small = [
        "train",
        "checkerboard/train",
        "model.network.width=4",
        "data.batch_size=4",
        "trainer.max_steps=4",
    ]
    monkeypatch.setattr("steer.training.FlowMatching.forward", interrupt)
    assert main([*small, "--quiet"]) == 130
    assert "nothing of it was kept" in capsys.readouterr().err
    Path("runs/checkerboard-train/last.ckpt").touch()
    again = how_to_resume(["train", "checkerboard/train", "run.resume=false"])
    assert (
        again
        == "; to resume from its last checkpoint: steer train checkerboard/train run.resume=true"
    )
    monkeypatch.setattr("recipes.cli.run", interrupt)
    run_directory.opened.clear()  # as in a process that was stopped before it had a folder
    assert main([*small, "sed=1", "--quiet"]) == 130
    assert "nothing of it was kept" in capsys.readouterr().err


def interrupt(*_):
    raise KeyboardInterrupt


def test_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "recipes.cli", "sample", "ring/steer", "model=nowhere"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("steer: error: model: no map is called 'nowhere': shipped are ")
    assert done.stderr.count("\n") == 1
