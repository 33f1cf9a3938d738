"""The base of the three loops: randomness by step, the optimizer, a stop at non-finite numbers.

Everything random in a step comes from (seed, step, rank), so a run killed at any moment and resumed
from its last checkpoint repeats the uninterrupted run bit for bit on the CPU: there is no random
state to save.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steer.data.stream import key, keyed_generator
from steer.loops import divergence, fsdp2
from steer.loops.schedules import Constant, LrSchedule
from steer.training import Loss

__all__ = ["Loop"]


class Loop(LightningModule):
    """Base of the training loops: AdamW on whatever requires a gradient.

    Args:
        lr: learning rate, the peak of its schedule.
        schedule: step -> factor of the learning rate, as in `schedules`.
        weight_decay: of AdamW; at 0 it is Adam.
        betas: decay rates of Adam's two averages.
        seed: of all randomness in the loop.

    Raises:
        ValueError: lr that is not positive.
        Diverged: a loss or a gradient that is not finite.
    """

    def __init__(
        self,
        lr: float,
        schedule: LrSchedule | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        seed: int = 0,
    ):
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive; got lr={lr}")
        self.lr = lr
        self.lr_schedule = schedule or Constant()
        self.weight_decay = weight_decay
        self.betas = (betas[0], betas[1])
        self.seed = seed
        self.sharded: list[fsdp2.Sharded] = []

    def configure_model(self) -> None:
        """Shards the maps under a strategy that asks for it, `Fsdp2`."""
        if self.device_mesh is not None and not self.sharded:
            self.sharded = fsdp2.shard(self, self.device_mesh["data_parallel"])

    def make_whole(self) -> None:
        """Gives maps that were sharded their whole weights; all processes must call it."""
        fsdp2.make_whole(self.sharded)
        self.sharded = []

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Builds the generator of this step, on this device, and reseeds the global one likewise.

        The global one is what dropout uses. Micro-batches accumulated into one step differ.
        """
        micro = batch_idx % self.trainer.accumulate_grad_batches
        where = (self.seed, self.global_step, micro, self.global_rank)
        torch.manual_seed(key("global", *where))
        return keyed_generator("step", *where, device=self.device)

    def report(self, loss: Loss, batch_size: int) -> Tensor:
        """Logs a loss and its terms, means over all processes, and returns its total here.

        Raises:
            Diverged: naming the culprit, if the loss of any process is not finite.
        """
        finite = self.trainer.strategy.reduce(
            loss.total.detach().isfinite().float(), reduce_op="mean"
        )
        if finite < 1:  # in any process: all of them stop
            raise divergence.of_loss(loss, self.global_step, self.trainer)
        terms = {f"train/{name}": value for name, value in loss.terms.items()}
        self.log("train/loss", loss.total, prog_bar=True, batch_size=batch_size, sync_dist=True)
        self.log_dict(terms, batch_size=batch_size, sync_dist=True)
        return loss.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the norm of the gradient. Raises Diverged if it is not finite."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = fsdp2.whole(torch.nn.utils.get_total_norm(gradients))
        if not norm.isfinite():
            raise divergence.of_gradient(norm, self.global_step, self.trainer)
        self.log("train/gradient_norm", norm)

    def configure_optimizers(self) -> Any:
        learned = [p for p in self.parameters() if p.requires_grad]
        optimizer = AdamW(learned, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        scheduler = LambdaLR(
            optimizer, lambda step: self.lr_schedule(step)
        )  # a lambda: the schedule is not saved
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
