"""Two processes take the gradient of one process on the joined batch, forward-mode derivatives included.

Run as a script, this file is one of the two: `test_loops_ddp.py FOLDER`.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import nn

from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import MapTraining, quiet
from steer.training import Loss

ROOT = Path(__file__).parents[1]


class Plane(nn.Module):
    """u(x, s, t) in float64, so that the order of a sum hardly matters."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(4, 16, generator=generator, dtype=torch.float64) / 2)
        self.w2 = nn.Parameter(torch.randn(16, 2, generator=generator, dtype=torch.float64) / 4)

    def forward(self, x, s, t, cond=None):
        return torch.tanh(torch.cat((x, s[:, None], t[:, None]), 1) @ self.w1) @ self.w2


class Residual:
    """E |d_t X_{s,t}(x0) - x1|^2 at times read off the batch; keeps what it was given."""

    def __call__(self, flow_map, x0, x1, cond, generator, step):
        self.seen = (x0, x1)
        s, t = x0[:, 0].sigmoid(), x0[:, 1].sigmoid()
        _, d_t = torch.func.jvp(lambda t: flow_map(x0, s, t), (t,), (torch.ones_like(t),))
        return Loss((d_t - x1).square().sum(1).mean(), {})


class Noise(StreamData):
    """x1 ~ N(0, I) in the plane."""

    def draw(self, generator):
        return torch.randn(self.batch_size, 2, generator=generator, dtype=torch.float64), None


class Recorded(MapTraining):
    """Leaves its rank's batch and gradient in a folder."""

    def __init__(self, folder):
        super().__init__(ResidualMap(Plane(), Linear()), Residual(), lr=0.01)
        self.folder = folder

    def on_before_optimizer_step(self, optimizer):
        gradient = {name: p.grad for name, p in self.flow_map.named_parameters()}
        torch.save((self.objective.seen, gradient), self.folder / f"rank{self.global_rank}_step{self.global_step}.pt")


def test_two_processes_equal_one_on_the_joined_batch(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    ranks = [torch.load(tmp_path / f"rank{rank}_step0.pt", weights_only=True) for rank in (0, 1)]
    (first, gradient), (second, other) = ranks
    assert not any(map(torch.equal, first, second))
    x0, x1 = map(torch.cat, zip(first, second, strict=True))
    one = ResidualMap(Plane(), Linear())
    Residual()(one, x0, x1, None, torch.Generator(), 0).total.backward()
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
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Recorded(Path(sys.argv[1])), Noise(16))
