"""A checkpoint where a run is stopped: by Ctrl-C, SIGTERM, or a reward that is not finite."""

import signal
import threading
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from steer.loops.last_checkpoint import LastCheckpoint
from steer.tilt import NonFiniteReward

__all__ = ["SaveWhenStopped", "Terminated"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill a job."""

    exit_code = 128 + signal.SIGTERM


class SaveWhenStopped(Callback):
    """Ctrl-C ends the step, writes the checkpoint and interrupts; a second one interrupts at once.

    SIGTERM does so likewise. Of several processes all stop after the same step, whichever of them
    was asked to.

    A reward that is not finite is met before the optimizer steps, so the checkpoint is that of the
    last whole step; where gradients are accumulated over batches, the last one that was due stays.

    Args:
        last: the checkpoint to write.
    """

    def __init__(self, last: LastCheckpoint):
        self.last = last
        self.asked = 0  # the signal that asked for the end
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = {each: signal.signal(each, self.ask) for each in SIGNALS}

    def ask(self, number: int, *_: Any) -> None:
        """Asks for the end of the run, or ends it at the second Ctrl-C."""
        if number == self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number

    def asked_of_any(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """The signal that any process was sent, the same in all of them; 0 for none."""
        if trainer.world_size == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=pl_module.device)
        return int(trainer.strategy.reduce(asked, reduce_op="max"))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if between_steps and (asked := self.asked_of_any(trainer, pl_module)):
            self.last.save(trainer)
            raise Terminated if asked == signal.SIGTERM else KeyboardInterrupt

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
        """Gives the signals their former meaning."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
