"""Two processes take the gradient of one on the joined batch, forward mode and conditions included.

Run as a script, this file is one of the two: `test_loops_ddp.py NETWORK FOLDER`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from selection import slow_but

from steer.conditions import Condition, cat
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import CsvLog, MapTraining, quiet, read_csv_log
from steer.networks import EmbeddingCondition, Mlp, Transformer, UNet
from steer.training import Loss

ROOT = Path(__file__).parents[1]


def mlp():
    return Mlp(2, 16, 2, EmbeddingCondition(3, 16), frequencies=2)


def unet():
    return UNet(1, (8,), blocks=1, recompute=True)


def transformer():
    return Transformer(1, 16, 2, 2, patch=2, recompute=True)


NETWORKS = {"mlp": (mlp, (2,)), "unet": (unet, (1, 4, 4)), "transformer": (transformer, (1, 4, 4))}


def build(name, networks=NETWORKS):
    """In float64, so that the order of a sum hardly matters, and past a start at zero."""
    network = networks[name][0]().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 4)
    return ResidualMap(network, Linear())


class Residual:
    """E |d_t X_{s,t}(x0) - x1|^2 at times read off the batch; keeps what it was given."""

    def __call__(self, flow_map, x0, x1, cond, generator, step):
        self.seen = (x0, x1, cond)
        s, t = x0.flatten(1)[:, :2].sigmoid().unbind(1)
        _, d_t = torch.func.jvp(lambda t: flow_map(x0, s, t, cond), (t,), (torch.ones_like(t),))
        return Loss((d_t - x1).square().flatten(1).sum(1).mean(), {})


class Noise(StreamData):
    """x1 ~ N(0, I), of vectors with a condition."""

    def __init__(self, batch_size, shape):
        super().__init__(batch_size)
        self.shape = shape

    def draw(self, generator):
        size = self.batch_size
        x1 = torch.randn(size, *self.shape, generator=generator, dtype=torch.float64)
        if len(self.shape) > 1:
            return x1, None
        pooled = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        return x1, Condition(pooled=pooled, texts=[f"{float(x):.3f}" for x in pooled[:, 0]])


class Recorded(MapTraining):
    """Leaves its rank's batch and gradient in a folder."""

    def __init__(self, name, folder):
        super().__init__(build(name), Residual(), lr=0.01)
        self.folder = folder

    def on_before_optimizer_step(self, optimizer):
        gradient = {name: p.grad for name, p in self.flow_map.named_parameters()}
        torch.save(
            (self.objective.seen, gradient),
            self.folder / f"rank{self.global_rank}_step{self.global_step}.pt",
        )


@pytest.mark.parametrize("name", slow_but(["mlp"], NETWORKS, NETWORKS))
def test_two_processes_equal_one_on_the_joined_batch(name, tmp_path):
    command = [sys.executable, __file__, name, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    ranks = [torch.load(tmp_path / f"rank{rank}_step0.pt", weights_only=True) for rank in (0, 1)]
    (first, gradient), (second, other) = ranks
    assert not any(map(torch.equal, first[:2], second[:2]))
    x0, x1 = map(torch.cat, zip(first[:2], second[:2], strict=True))
    cond = None if first[2] is None else cat((first[2], second[2]))
    assert cond is None or len({*cond.texts}) == len(x1)
    one = build(name)
    loss = Residual()(one, x0, x1, cond, torch.Generator(), 0).total
    loss.backward()
    assert read_csv_log(tmp_path / "log.csv")["train/loss"][0] == pytest.approx(
        loss.item(), rel=1e-6
    )
    for name, weight in one.named_parameters():
        torch.testing.assert_close(gradient[name], weight.grad, rtol=1e-10, atol=1e-12)
        assert torch.equal(gradient[name], other[name])


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet()
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=CsvLog(Path(sys.argv[2]) / "log.csv"),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    name, folder = sys.argv[1:]
    trainer.fit(Recorded(name, Path(folder)), Noise(16, NETWORKS[name][1]))
