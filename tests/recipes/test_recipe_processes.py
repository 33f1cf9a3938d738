"""steer sample, evaluate and compare on two processes: the run folder of one."""

import os
import sys
from pathlib import Path

import pytest
from launched import STEER, ended
from omegaconf import OmegaConf
from run_folders import contents, differing

from recipes.setup.processes import Processes, counts_of

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
TORCHRUN += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
TORCHRUN += ["-m", "recipes.cli"]
TWO = ["devices=2", "device=cpu"]
SAMPLE = ["sample", "ring/steer", "prompts=5", "particles=6", "sampler.steps=3", "base.steps=2"]
SAMPLE += ["model.steps=2", "prompts_at_once=1", "sampler.film=1"]
EVALUATE = ["evaluate", "evaluate.yaml"]
BOARD = """
model: plane.safetensors
prompts: 4
particles: 50
prompts_at_once: 1
samplers:
  1_jump: {_target_: steer.samplers.Jump, steps: 1}
  ode: {_target_: steer.samplers.Ode, steps: 2}
reference:
  _target_: recipes.evaluation.reference.PlaneReference
  draws: 500
  draw:
    _target_: steer.build.resolve
    name: steer.data.checkerboard
"""
COMPARE = ["compare", "ring/compare", "particles=4", "budgets=[8]", "seeds=2", "model.steps=2"]


def folder_of(words, launcher=STEER):
    code, out, err = ended(words, launcher)
    assert code == 0, err
    assert out.count("\n") == 1  # the first process alone prints it
    return Path(out.strip())


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(STEER, id="devices"),
        pytest.param(TORCHRUN, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_sampling_on_two_processes_leaves_the_folder_of_one(steer, launcher):
    one = steer(*SAMPLE, "device=cpu", "run.dir=one")
    words = TWO if launcher is STEER else ["device=cpu"]
    two = folder_of([*SAMPLE, *words, "run.dir=two"], launcher)
    assert differing(one, two) == []
    assert {*os.listdir()} - {"index.html"} == {"one", "two"}


@pytest.mark.slow
def test_evaluating_on_two_processes_leaves_the_folder_of_one(steer, plane):
    Path("evaluate.yaml").write_text(BOARD)
    one = steer(*EVALUATE, "device=cpu", "run.dir=one")
    two = folder_of([*EVALUATE, *TWO, "run.dir=two"])
    assert differing(one, two) == []
    assert contents(one)["metrics.json"]["samples"] == 200


@pytest.mark.slow
def test_comparing_on_two_processes_has_the_figures_of_one(steer):
    one = steer(*COMPARE, "device=cpu", "run.dir=one")
    two = folder_of([*COMPARE, *TWO, "run.dir=two"])
    first, second = (contents(folder) for folder in (one, two))
    assert first.keys() == second.keys()
    assert any(name.startswith("cells/") for name in first)
    assert first["metrics.json"] == second["metrics.json"]


def test_what_one_process_is_refused_ends_both_in_one_line(steer):
    """A reward that is NaN in the second process alone, whose prompt is the second."""
    Path("mine.py").write_text(
        "import os\nimport torch\n\ndef late(x):\n"
        "    bad = os.environ.get('LOCAL_RANK') == '1' and len(x) == 6\n"
        "    return torch.full_like(x[:, 0], torch.nan) if bad else x[:, 0]\n"
    )
    best = ["sampler._target_=steer.samplers.BestOfN"]
    best += ["sampler.base_sampler._target_=steer.samplers.Jump"]
    words = [*SAMPLE[:4], *SAMPLE[5:8], *best, "reward=mine.py:late", *TWO, "run.dir=here"]
    code, out, err = ended(words)
    assert (code, out) == (2, "")
    assert err.count("steer: error") == 1
    assert "steer: error: late is nan for sample 6" in err  # the first of the second prompt
    assert not list(Path("here").glob("*.png"))


# --- who starts them ----------------------------------------------------------------------------
TORCH = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_JOB_NAME": "steer", "SLURM_NTASKS": "16", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "asked", "found"),
    [
        ({}, {}, (1, 1)),
        ({}, {"devices": 8}, (8, 1)),
        ({}, {"devices": 8, "nodes": 2}, (8, 2)),
        (TORCH, {}, (4, 2)),
        (TORCH, {"devices": 4, "nodes": 2}, (4, 2)),
        (SLURM, {}, (8, 2)),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, {"devices": 2}, (2, 1)),
    ],
)
def test_processes_are_those_asked_for_or_started(monkeypatch, environment, asked, found):
    for name in (*TORCH, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert counts_of(OmegaConf.create({"devices": None, "nodes": None} | asked)) == found


def test_processes_other_than_those_started_are_refused(monkeypatch):
    for name, value in TORCH.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"devices=8, but torchrun has started 4 processes on"):
        counts_of(OmegaConf.create({"devices": 8, "nodes": None}))


def test_several_processes_are_not_given_one_device(steer):
    says = steer.fails(*SAMPLE, "devices=2", "device=cuda:0")
    assert "device=cuda:0 is one device, and there are 2 on each of 1 nodes" in says


def test_work_is_shared_without_rest():
    work = list(range(7))
    shares = [list(Processes(rank, 3).share(work)) for rank in range(3)]
    assert sorted(piece for share in shares for piece in share) == work
    with pytest.warns(UserWarning, match=r"6 of 8 processes have nothing to do.*prompts_at_once"):
        Processes(0, 8).share([1, 2])
