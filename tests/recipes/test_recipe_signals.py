"""Ctrl-C and SIGTERM at any moment of steer train and steer tune keep the work, bit for bit.

The signal comes from the run's own reward, objective or sampler, at a call of a given number, so
that the moment is the same in every run of these tests.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_recipe_train import TUNE, equal, weights

from steer.loops import read_csv_log

ROOT = Path(__file__).parents[2]
MINE = """
import os
from pathlib import Path
import rewards
from steer.samplers import Jump
from steer.training import FlowMatching

calls = dict()

def moment(kind):
    calls[kind] = calls.get(kind, 0) + 1
    if os.environ.get("STOP_AT") == f"{kind} {calls[kind]}":
        os.kill(os.getpid(), int(os.environ["STOP_BY"]))

class Learning(FlowMatching):
    def forward(self, *args):
        moment("step")
        return super().forward(*args)

class Drawing(Jump):
    def __call__(self, *args, **kwargs):
        drawn = super().__call__(*args, **kwargs)
        moment("drawing")
        return drawn

def upward(x):
    if len(x) == 7:  # a step, and no rehearsal
        moment("reward")
    return x.sum(1)
"""
TRAIN = [
    "train",
    "checkerboard/train",
    "model.network.width=8",
    "model.network.depth=1",
    "data.batch_size=16",
    "particles=16",
    "identities=4",
    "trainer.accelerator=cpu",
    "trainer.max_steps=8",
    "trainer.log_every_n_steps=2",
    "loop.objective.diagonal._target_=mine.py:Learning",
    "loop.check_gradient=false",
    "loop.objective.off_diagonal=null",
    "loop.objective.diag_fraction=1",
    "pictures.every=4",
    "pictures.samplers={one: {_target_: mine.py:Drawing}}",
]


def stopped(words, at, by):
    """Runs the command in a process of its own, that is sent a signal; checks how it ends.

    Returns:
        The step of its checkpoint, and the words of the command that goes on.
    """
    command = [sys.executable, "-m", "recipes.cli", *words, "--quiet"]
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "STOP_AT": at, "STOP_BY": str(int(by))}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 128 + by, done.stderr
    assert done.stdout == ""
    what = "interrupted" if by == signal.SIGINT else "terminated"
    start = f"steer: {what}; to resume from its last checkpoint: steer "
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1
    again = shlex.split(done.stderr.removeprefix(start))
    assert again[-1] == "run.resume=true"
    step = torch.load("parts/last.ckpt", weights_only=True)["global_step"]
    return step, [word for word in again if word != "--quiet"]


def same_in_the_end(steer, words, again):
    """Goes on, and compares weights, every logged number and the metrics with an unstopped run."""
    assert steer(*again) == "parts"
    steer(*words, "run.dir=whole")
    assert equal(weights("whole"), weights("parts"))
    assert read_csv_log("whole/log.csv") == read_csv_log("parts/log.csv")
    one, other = (json.loads(Path(f, "metrics.json").read_text()) for f in ("whole", "parts"))
    assert one.pop("seconds") > 0
    assert other.pop("seconds") > 0
    assert one == other
    pictures = [{path.name for path in Path(f).rglob("*.png")} for f in ("whole", "parts")]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("at", "by", "step"),
    [
        pytest.param("step 1", signal.SIGTERM, 1, marks=pytest.mark.slow),
        ("step 4", signal.SIGINT, 4),
        ("drawing 1", signal.SIGTERM, 4),
        pytest.param("drawing 2", signal.SIGTERM, 8, marks=pytest.mark.slow),
    ],
)
def test_training(steer, at, by, step):
    """In the first step, in a step that is logged and drawn, while drawing, after the last step."""
    Path("mine.py").write_text(MINE)
    found, again = stopped([*TRAIN, "run.dir=parts"], at, by)
    assert found == step
    same_in_the_end(steer, TRAIN, again)


@pytest.mark.parametrize(
    ("at", "by", "step"),
    [
        ("reward 1", signal.SIGTERM, 1),
        pytest.param("reward 3", signal.SIGINT, 3, marks=pytest.mark.slow),
        ("drawing 2", signal.SIGINT, 4),
        pytest.param("drawing 4", signal.SIGINT, 8, marks=pytest.mark.slow),
    ],
)
def test_tuning(steer, plane, at, by, step):
    """In steps before the first checkpoint is due, while watching, and while drawing at the end."""
    Path("mine.py").write_text(MINE)
    Path("tune.yaml").write_text(
        TUNE.replace("{_target_: rewards.Linear, direction: [1.0, 1.0]}", "mine.py:upward")
        .replace("{_target_: steer.samplers.Jump, steps: 2}", "{_target_: mine.py:Drawing}")
        .replace("{max_steps: 30, accelerator: cpu, log_every_n_steps: 5}", "{max_steps: 8}")
        .replace("watch_every: 10", "watch_every: 4")
    )
    words = ["tune", "tune.yaml", "trainer.accelerator=cpu", "trainer.log_every_n_steps=2"]
    words += ["checkpoint_every=100", "loop.batch_size=7"]
    found, again = stopped([*words, "run.dir=parts"], at, by)
    assert found == step
    same_in_the_end(steer, words, again)
