"""Fully sharded training is training: DDP's weights, and checkpoints for any number of processes.

Run as a script, this file is one of two processes: `test_loops_fsdp2.py STRATEGY LOOP STEPS FOLDER`
goes on from what is in the folder, and leaves there what is compared.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Trainer
from test_loops_ddp import NETWORKS as RECOMPUTING
from test_loops_ddp import ROOT, Noise, Residual, build
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import steer
from steer.loops import CsvLog, Ema, LastCheckpoint, MapTraining, RewardTuning, quiet
from steer.loops.fsdp2 import layers, shard
from steer.networks import Transformer, UNet
from steer.training import EmaTarget, FlowMatching

ACCUMULATED = 2
NETWORKS = RECOMPUTING | {"layers": (lambda: UNet(1, (8,), blocks=1), (1, 4, 4))}


class Learning(Residual, nn.Module):
    """With an average of the map as a part of it, which is sharded with it, and saved."""

    def __init__(self, flow_map):
        nn.Module.__init__(self)
        self.target = EmaTarget(flow_map, 0.5)

    def __call__(self, flow_map, x0, x1, cond, generator, step):
        loss = Residual.__call__(self, flow_map, x0, x1, cond, generator, step)
        s, t = x0.flatten(1)[:, :2].sigmoid().unbind(1)
        with torch.no_grad():
            kept = self.target(flow_map, step)(x0, s, t, cond)
        return loss._replace(total=loss.total + (flow_map(x0, s, t, cond) - kept).square().mean())


def training(network):
    flow_map = build(network, NETWORKS)
    return MapTraining(flow_map, Learning(flow_map), lr=0.01)


def tuning(network):
    flow_map = build(network, NETWORKS).float()  # which the noise of a tuning is
    tilt = steer.Tilt(lambda x: -(x - 1).square().flatten(1).mean(1))
    objective = steer.tuning.Direct()
    shape = NETWORKS[network][1]
    base = copy.deepcopy(flow_map).requires_grad_(False).eval()
    return RewardTuning(flow_map, base, tilt, objective, shape, batch_size=4, lr=0.01)


LOOPS = {"train": training, "tune": tuning}


class Shares(Ema):
    """The average, which notes the share of the weights, of Adam's averages and of its own that are
    in this process.
    """

    shares: ClassVar = {}

    def on_train_end(self, trainer, pl_module):
        weights = dict(pl_module.flow_map.named_parameters())
        adam = [state["exp_avg"] for state in trainer.optimizers[0].state.values()]
        kept = {"weights": list(weights.values()), "adam": adam, "average": self.average.values()}
        self.shares = {
            name: sum(local(x).numel() for x in tensors) / sum(x.numel() for x in tensors)
            for name, tensors in kept.items()
        }


def local(x):
    return x.to_local() if isinstance(x, DTensor) else x


def run(strategy, kind, steps, folder, network="mlp"):
    """Trains up to a step from the folder's checkpoint; leaves weights, average and shares."""
    folder = Path(folder)
    loop = LOOPS[kind](network)
    ema = Shares(0.9)
    last = LastCheckpoint(folder, every=2)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=strategy,
        accumulate_grad_batches=ACCUMULATED if kind == "train" else 1,
        logger=CsvLog(folder / "log.csv"),
        log_every_n_steps=1,
        callbacks=[ema, last],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = last.path if last.path.exists() else None
    data = Noise(8, NETWORKS[network][1]) if kind == "train" else None
    trainer.fit(loop, data, ckpt_path=start, weights_only=True)
    loop.make_whole()
    weights = {name: weight.detach() for name, weight in loop.flow_map.named_parameters()}
    torch.save((weights, ema.shares), folder / f"rank{trainer.global_rank}.pt")


def ended(strategy, kind, steps, folder, network="mlp"):
    """The run in processes of its own: the whole weights, and the shares of each process."""
    command = [sys.executable, __file__, strategy, kind, str(steps), str(folder), network]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    subprocess.run(command, env=environment, check=True, timeout=300)
    ranks = sorted(folder.glob("rank*.pt"))
    found = [torch.load(path, weights_only=True) for path in ranks]
    for path in ranks:
        path.unlink()
    return found[0][0], [shares for _, shares in found]


def close(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=tolerance, atol=tolerance / 100)


def saved(folder):
    found = torch.load(folder / "last.ckpt", weights_only=True)
    return found["state_dict"], found["callbacks"]["Shares"]["average"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "network"),
    [("train", "mlp"), ("tune", "mlp"), ("train", "unet"), ("train", "layers")],
)
def test_sharded_training_is_that_of_ddp(tmp_path, kind, network):
    """Weights and average after four steps, of two batches each in training, in float64; and each
    process has half of the weights, of Adam's averages and of the average.
    """
    whole, shares = ended("ddp", kind, 4, tmp_path / "ddp", network)
    assert [set(each.values()) for each in shares] == [{1.0}, {1.0}]
    sharded, shares = ended("fsdp2", kind, 4, tmp_path / "fsdp2", network)
    tolerance = 1e-4 if kind == "tune" else 1e-10 if network == "mlp" else 1e-6
    close(whole, sharded, tolerance)
    assert {name: sum(each[name] for each in shares) for name in shares[0]} == pytest.approx(
        dict.fromkeys(("weights", "adam", "average"), 1.0)
    )
    assert max(share for each in shares for share in each.values()) < 0.75
    for one, other in zip(saved(tmp_path / "ddp"), saved(tmp_path / "fsdp2"), strict=True):
        close(one, other, tolerance)
    start = {name: w.detach() for name, w in LOOPS[kind](network).flow_map.named_parameters()}
    assert any((whole[name] - weight).abs().max() > 1e-3 for name, weight in start.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOOPS)
def test_a_checkpoint_goes_on_with_other_numbers_of_processes(tmp_path, kind):
    """Two sharded steps and two more are four, to the bit; its checkpoint goes on in one process,
    and that one in two again, from the weights and averages that it was left with.
    """
    four, _ = ended("fsdp2", kind, 4, tmp_path / "four")
    ended("fsdp2", kind, 2, tmp_path / "two")
    again, _ = ended("fsdp2", kind, 4, tmp_path / "two")
    close(four, again, 0)
    for one, other in zip(saved(tmp_path / "four"), saved(tmp_path / "two"), strict=True):
        close(one, other, 0)
    unchanged, _ = ended("auto", kind, 4, tmp_path / "two")  # nothing is left to do
    close(four, unchanged, 0)
    one, _ = ended("auto", kind, 6, tmp_path / "two")
    more, shares = ended("fsdp2", kind, 8, tmp_path / "two")
    assert len(shares) == 2
    assert any(not torch.equal(one[name], weight) for name, weight in more.items())


def test_layers_are_those_of_lists():
    """But none where blocks are computed again, with the weights that they were given."""
    network = Transformer(1, 16, 3, 2, patch=2)
    assert list(layers(network)) == list(network.blocks)
    assert list(layers(Transformer(1, 16, 3, 2, patch=2, recompute=True))) == []
    stages = [*layers(UNet(1, (8,), blocks=1))]
    assert stages
    assert not any(isinstance(stage, nn.ModuleList) for stage in stages)


def test_weights_outside_maps_are_refused():
    loop = MapTraining(build("mlp"), FlowMatching(), lr=0.1)
    loop.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"more.weight belongs to none: train with strategy ddp"):
        shard(loop, None)
    assert not any(isinstance(module, FSDPModule) for module in loop.modules())


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet()
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
