"""A progress bar in one line, for a run counted in steps."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["StepProgress"]


class StepProgress(ProgressBar):
    """Steps done of all, time gone and left, and the numbers logged with prog_bar=True.

    It is written to standard error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar: Progress | None = None

    def disable(self) -> None:
        """Draws nothing: called by Lightning on every rank but the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        steps = trainer.estimated_stepping_batches  # of max_steps and max_epochs, the first to end
        total = steps if math.isfinite(steps) else None
        self.task = self.bar.add_task("", total=total, completed=trainer.global_step, numbers="")
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        if self.bar is None:
            return
        step = trainer.global_step
        self.bar.update(self.task, completed=step)
        if step % 10 == 0:  # reading the numbers waits for the device
            numbers = "  ".join(
                f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items()
            )
            self.bar.update(self.task, numbers=numbers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leaves the line as it is and restores the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
