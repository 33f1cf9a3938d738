"""The checkpoint that a run is resumed from."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

__all__ = ["LastCheckpoint"]

NAME = "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Keeps `folder`/last.ckpt, renewed every `every` steps and at the end of training.

    It is written beside itself and renamed: whenever the process is killed, last.ckpt is whole.
    (Lightning's own checkpoint goes through the system's temporary folder, and is copied when that
    is on another disk.) Nothing is written on an exception, whose moment may lie between the
    optimizer's step and the average's; `SaveWhenStopped` does so where it does not.

    Resume with `trainer.fit(loop, data, ckpt_path=last.path, weights_only=True)`.

    Raises:
        ValueError: every below 1.
    """

    def __init__(self, folder: str | Path, every: int = 500):
        if every < 1:
            raise ValueError(f"every must be at least 1 step; got every={every}")
        self.path = Path(folder) / NAME
        self.every = every
        self.saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        step = trainer.global_step
        if step != self.saved and step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.saved:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Writes the checkpoint now. All ranks must call it, and only between steps."""
        self.saved = trainer.global_step
        beside = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            os.replace(beside, self.path)
