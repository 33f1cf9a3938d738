"""A checkpoint where a run is stopped: by Ctrl-C, or by a reward that is not finite."""

import signal
import threading
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from steer.loops.last_checkpoint import LastCheckpoint
from steer.tilt import NonFiniteReward

__all__ = ["SaveWhenStopped"]


class SaveWhenStopped(Callback):
    """Ctrl-C ends the step, writes the checkpoint and interrupts; a second one interrupts at once.

    A reward that is not finite is met before the optimizer steps, so the checkpoint is that of the
    last whole step; where gradients are accumulated over batches, the last one that was due stays.
    Of runs in several processes nothing is changed: they would stop at different
    steps.

    Args:
        last: the checkpoint to write.
    """

    def __init__(self, last: LastCheckpoint):
        self.last = last
        self.asked = False
        self.before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if trainer.world_size == 1 and in_main:
            self.before = signal.signal(signal.SIGINT, self.ask)

    def ask(self, *_: Any) -> None:
        """Asks for the end of the run, or ends it if that has been asked for."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.asked and between_steps:
            self.last.save(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.put_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.put_back()
        met_between_steps = (
            isinstance(exception, NonFiniteReward) and trainer.accumulate_grad_batches == 1
        )
        if met_between_steps and trainer.world_size == 1 and trainer.global_step:
            self.last.save(trainer)

    def put_back(self) -> None:
        """Gives Ctrl-C its former meaning."""
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
            self.before = None
