"""A run killed at any moment and resumed ends with the uninterrupted run's weights, bit for bit.

Run as a script, this file is such a run: `test_loops_resume.py KIND FOLDER STEPS [KILL_AT]`.
"""

import copy
import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from steer.data import Checkerboard, StepStream
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import Cosine, Ema, LastCheckpoint, MapTraining, RewardTuning, Warmup, quiet
from steer.tilt import Tilt
from steer.training import (
    METHODS,
    EmaTarget,
    FlowMatching,
    Joint,
    Lagrangian,
    Learned,
    Loss,
    Semigroup,
    named,
)
from steer.tuning import TuningObjective

ROOT = Path(__file__).parents[1]


class Plane(nn.Module):
    """u(x, s, t), with dropout: the global generator matters too."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(4, 16, generator=generator) / 2)
        self.w2 = nn.Parameter(torch.randn(16, 2, generator=generator) / 4)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, s, t, cond=None):
        return (
            self.dropout(torch.tanh(torch.cat((x, s[:, None], t[:, None]), 1) @ self.w1)) @ self.w2
        )


class Climb(TuningObjective):
    """-E tilt(X_{0,1}(x0)) + E |X - X_base|^2."""

    claim = "maximiser"
    needs_gradient = True

    def forward(self, flow_map, base, tilt, x0, cond, generator, step):
        x = flow_map(x0 + 0.1 * torch.randn(x0.shape, generator=generator), 0.0, 1.0)
        return Loss((x - base(x0, 0.0, 1.0)).square().sum(1).mean() - tilt(x).mean(), {})


def training():
    objective = Joint(FlowMatching(), Lagrangian(), diag_only_steps=5)
    loop = MapTraining(
        ResidualMap(Plane(), Linear()), objective, lr=0.01, schedule=Warmup(5, Cosine(60))
    )
    return loop, Checkerboard(16, seed=1)


def with_state():
    """A training whose objective keeps an average and learns a weighting beside the map."""
    flow_map = ResidualMap(Plane(), Linear())
    objective = Joint(
        FlowMatching(),
        Semigroup(),
        diag_only_steps=5,
        jumps=EmaTarget(flow_map, 0.8),
        weighting=Learned(features=4),
    )
    return MapTraining(flow_map, objective, lr=0.01, schedule=Cosine(60)), Checkerboard(16, seed=1)


def tuning():
    flow_map = ResidualMap(Plane(), Linear())
    base = copy.deepcopy(flow_map).eval().requires_grad_(False)
    tilt = Tilt(lambda x: -x.square().sum(1))
    return RewardTuning(flow_map, base, tilt, Climb(), (2,), 16, lr=0.01, schedule=Cosine(60)), None


def named_method(name):
    """One of the literature's, with a teacher and an average where it wants them."""
    flow_map, teacher = (ResidualMap(Plane(), Linear()) for _ in range(2))
    objective = named(name, 30, flow_map, teacher, grid=4)
    loop = MapTraining(flow_map, objective, check_gradient=False, lr=0.01, schedule=Cosine(60))
    return loop, Checkerboard(16, seed=1)


KINDS = {"training": training, "with_state": with_state, "tuning": tuning}
METHOD_KINDS = {method.name: partial(named_method, method.name) for method in METHODS}


def run(kind, folder, steps, callbacks=(), every=7, **trainer):
    """Starts a run, or resumes it from its folder. Returns the loop and its average."""
    quiet()
    loop, data = (KINDS | METHOD_KINDS)[kind]()
    ema = Ema(0.9)
    last = LastCheckpoint(folder, every)
    trainer = Trainer(
        max_steps=steps,
        callbacks=[ema, last, *callbacks],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        **trainer,
    )
    trainer.fit(loop, data, ckpt_path=last.path if last.path.exists() else None, weights_only=True)
    return loop, ema


def assert_equal(one, other):
    loop, ema = one
    loop_, ema_ = other
    assert loop.global_step == loop_.global_step
    for ours, theirs in ((loop.state_dict(), loop_.state_dict()), (ema.average, ema_.average)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def kill_in(folder, kind, where, at, steps=40):
    """Runs the command in a process of its own that dies by SIGKILL in the middle of step `at`."""
    command = [sys.executable, __file__, kind, str(folder), str(steps), where, str(at)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_uninterrupted(kind, tmp_path):
    whole = run(kind, tmp_path / "whole", 30)
    run(kind, tmp_path / "parts", 17)
    assert_equal(run(kind, tmp_path / "parts", 30), whole)
    again = run(kind, tmp_path / "parts", 30)  # a finished run, once more: nothing happens
    assert_equal(again, whole)


@pytest.mark.parametrize("method", METHOD_KINDS)
def test_every_method_resumes_to_the_same_weights(method, tmp_path):
    """Through the warm-ups, a sixth or a quarter of 30 steps; the checkpoint is of step 5."""
    whole = run(method, tmp_path / "whole", 12, every=5)
    run(method, tmp_path / "parts", 5, every=5)
    assert_equal(run(method, tmp_path / "parts", 12, every=5), whole)


def test_accumulated_micro_batches_resume_too(tmp_path):
    whole = run("training", tmp_path / "whole", 12, every=3, accumulate_grad_batches=3)
    run("training", tmp_path / "parts", 6, every=3, accumulate_grad_batches=3)
    assert_equal(run("training", tmp_path / "parts", 12, every=3, accumulate_grad_batches=3), whole)
    assert not torch.equal(
        whole[0].flow_map.network.w1, run("training", tmp_path, 12)[0].flow_map.network.w1
    )


EPOCHS = {
    "max_epochs": 3,
    "limit_train_batches": 5,
    "accumulate_grad_batches": 2,
}  # steps of 2, 2 and 1 batches


class Read(Callback):
    """Keeps the batches, and raises KeyError before the first batch of step `at`."""

    def __init__(self, at=-1):
        self.at = at
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            raise KeyError("stopped")
        self.seen.append(batch[0])


def same(batches, others):
    return len(batches) == len(others) and all(map(torch.equal, batches, others))


def test_every_epoch_reads_new_batches_and_a_resume_reads_on(tmp_path):
    """Stopped within an epoch, at its border and after the first step.

    The stream is read once from its beginning.
    """
    read = Read()
    whole = run("training", tmp_path / "whole", -1, [read], **EPOCHS)
    assert whole[0].global_step == 9
    stream = StepStream(Checkerboard(16).draw, seed=1)
    assert same(read.seen, [batch[0] for batch in itertools.islice(stream, 15)])
    for at, taken in ((1, 2), (3, 5), (5, 9)):
        folder = tmp_path / f"stopped-{at}"
        rest = Read()
        with pytest.raises(KeyError):
            run("training", folder, -1, [Read(at)], every=1, **EPOCHS)
        assert_equal(run("training", folder, -1, [rest], every=1, **EPOCHS), whole)
        assert same(rest.seen, read.seen[taken:])


def test_a_finished_run_of_epochs_goes_on_with_more(tmp_path):
    run("training", tmp_path / "parts", -1, **EPOCHS)
    longer = EPOCHS | {"max_epochs": 4}
    assert_equal(
        run("training", tmp_path / "parts", -1, **longer),
        run("training", tmp_path / "whole", -1, **longer),
    )


def test_overfitting_reads_the_same_batches_in_every_epoch(tmp_path):
    read = Read()
    run("training", tmp_path, -1, [read], max_epochs=3, overfit_batches=2)
    assert same(read.seen[:2], read.seen[2:4])
    assert same(read.seen[:2], read.seen[4:])
    assert not torch.equal(*read.seen[:2])


def test_tuning_goes_on_counting(tmp_path):
    run("tuning", tmp_path, 10)
    loop, _ = run("tuning", tmp_path, 20)
    assert loop.spent.network_forward == 2 * 20 * 16


@pytest.mark.slow
def test_killed_while_writing_a_checkpoint(tmp_path):
    kill_in(tmp_path / "killed", "training", "save", at=21)
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["global_step"] == 14
    assert_equal(run("training", tmp_path / "killed", 40), run("training", tmp_path / "whole", 40))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_middle_of_a_step(kind, tmp_path):
    kill_in(tmp_path / "killed", kind, "step", at=25)
    assert_equal(run(kind, tmp_path / "killed", 40), run(kind, tmp_path / "whole", 40))


@pytest.mark.slow
def test_killed_from_outside_again_and_again(tmp_path):
    command = [sys.executable, __file__, "training", str(tmp_path / "killed"), "300"]
    last = tmp_path / "killed" / "last.ckpt"
    for _ in range(3):
        before = last.stat().st_mtime_ns if last.exists() else None
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert torch.load(last, weights_only=True)["global_step"] < 300
    assert_equal(
        run("training", tmp_path / "killed", 300), run("training", tmp_path / "whole", 300)
    )


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


class KillInStep(Callback):
    """Dies between the loss of step `at` and its backward."""

    def __init__(self, at):
        self.at = at

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.at:
            die()


if __name__ == "__main__":
    kind, folder, steps, *kill = sys.argv[1:]
    torch.set_num_threads(1)
    callbacks = []
    if kill[:1] == ["step"]:
        callbacks = [KillInStep(int(kill[1]))]
    if kill[:1] == ["save"]:
        rename = os.replace

        def replace(source, target):
            if torch.load(source, weights_only=True)["global_step"] == int(kill[1]):
                Path(source).write_bytes(Path(source).read_bytes()[:1000])
                die()
            rename(source, target)

        os.replace = replace
    run(kind, Path(folder), int(steps), callbacks)
