"""A checkpoint where a run is stopped: by Ctrl-C, SIGTERM, or a reward that is not finite."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from steer.loops.last_checkpoint import LastCheckpoint
from steer.tilt import NonFiniteReward

__all__ = ["SaveWhenStopped", "Terminated"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill a job."""

    def __init__(self) -> None:
        super().__init__(signal.SIGTERM)


class SaveWhenStopped(Callback):
    """Ctrl-C ends the step, writes the checkpoint and interrupts; a second one interrupts at once.

    SIGTERM does so likewise. Of several processes all stop after the same step, whichever of them
    was asked to. In one process, what is measured or drawn between two steps in `interruptible`
    ends at once, and is done again when the run is resumed; a validation of Lightning's own is
    brought to its end first.

    A reward that is not finite is met before the optimizer steps, so the checkpoint is that of the
    last whole step; where gradients are accumulated over batches, the last one that was due stays.

    Args:
        last: the checkpoint to write.
    """

    def __init__(self, last: LastCheckpoint):
        self.last = last
        self.asked = 0  # the signal that asked for the end
        self.open = False  # within `interruptible`
        self.left = False  # `interruptible` by a signal
        self.started = 0
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self.before = {each: signal.signal(each, self.ask) for each in SIGNALS}

    def ask(self, number: int, *_: Any) -> None:
        """Asks for the end of the run, or ends it at the second Ctrl-C."""
        if number == self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number
        if self.open:
            self.leave()

    def leave(self) -> NoReturn:
        """Leaves `interruptible`, to save afterwards."""
        self.left = True
        raise interruption(self.asked)

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
        if not between_steps or validates_next(trainer):
            return
        if asked := self.asked_of_any(trainer, pl_module):
            self.last.save(trainer)
            log_step(trainer)
            raise interruption(asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last.on_train_end(trainer, pl_module)
        self.put_back()
        if asked := self.asked_of_any(trainer, pl_module):
            raise interruption(asked)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        in_step = isinstance(exception, NonFiniteReward) and trainer.accumulate_grad_batches == 1
        if in_step and trainer.world_size == 1 and trainer.global_step:
            self.last.save(trainer)
        if self.left and trainer.global_step > self.started:
            self.last.save(trainer)
            log_step(trainer)
        self.put_back()

    def put_back(self) -> None:
        """Gives the signals their former meaning."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


def interruption(number: int) -> KeyboardInterrupt:
    """Builds the exception of a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """A context that Ctrl-C or SIGTERM leaves at once, for callbacks at the end of a step.

    What it holds must be done again in a run that is resumed at this step. After the last step of a
    run, which is not taken up again, and of several processes, it is brought to its end.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    stopped = next((each for each in callbacks if isinstance(each, SaveWhenStopped)), None)
    at_end = 0 < trainer.max_steps <= trainer.global_step
    if stopped is None or at_end or trainer.world_size > 1:
        yield
        return
    stopped.open = True
    try:
        if stopped.asked:
            stopped.leave()
        yield
    finally:
        stopped.open = False


def validates_next(trainer: Trainer) -> bool:
    """Whether Lightning validates after this step, which a resumed run would leave out."""
    fit_loop = trainer.fit_loop
    fetcher = fit_loop._data_fetcher
    return fetcher is not None and fit_loop.epoch_loop._should_check_val_fx(fetcher)


def log_step(trainer: Trainer) -> None:
    """Logs what the step has reported, as Lightning does after the callbacks, where it is due."""
    trainer._logger_connector.on_batch_end()
    trainer._logger_connector.update_train_step_metrics()
