"""A Lightning run inside a run folder, with logs, checkpoints and resumption."""

import hashlib
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from recipes.cli import unforeseen
from recipes.setup import run_directory
from recipes.setup.builders import made_as
from recipes.setup.dry_run import MISFITS
from recipes.setup.job import Job
from recipes.setup.memory import ran_out
from steer.loops import CsvLog, Ema, LastCheckpoint, SaveWhenStopped, StepProgress
from steer.loops import quiet as quiet_lightning
from steer.loops.base import Loop
from steer.tilt import NonFiniteReward

LOG = "log.csv"
FLUSH = 1  # seconds until TensorBoard closes after Ctrl-C; its default is two minutes


class Clock(Callback):
    """Seconds of training, summed over all resumptions of a run."""

    def __init__(self) -> None:
        self.before = 0.0
        self.start = 0.0

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before + time.perf_counter() - self.start if self.start else self.before

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = self.seconds
        self.start = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


class LogLastStep(Callback):
    """Has the last step logged, whatever trainer.log_every_n_steps is; 0 logs nothing still."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        of_steps = 0 < trainer.max_steps <= trainer.global_step
        of_epochs = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if (of_steps or of_epochs) and trainer.log_every_n_steps:  # type: ignore[attr-defined]
            trainer.log_every_n_steps = 1  # type: ignore[attr-defined]


class Fitted(NamedTuple):
    """Optimizer steps taken and seconds of training, over all resumptions."""

    steps: int
    seconds: float


def fit(
    loop: LightningModule,
    data: LightningDataModule | None,
    folder: Path,
    job: Job,
    ema: Ema,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Trains from the folder's checkpoint, or from the beginning.

    The loop ends with its averaged weights.

    In a distributed run only the first process returns; the others exit.

    Raises:
        ValueError: arguments that the Trainer does not take, a damaged checkpoint, a loss that is
            not finite.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, with Lightning shut down.
    """
    clock = Clock()
    last = LastCheckpoint(folder, job.config.checkpoint_every)
    bar = [] if job.quiet else [StepProgress()]
    stopped = SaveWhenStopped(last)
    trainer = trainer_of(
        job.config, folder, [ema, clock, LogLastStep(), *callbacks, stopped, last, *bar]
    )
    try:
        with run_directory.shared(folder):
            trainer.fit(loop, data, ckpt_path=to_resume(last.path), weights_only=True)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning turns one into the other
            raise end.__context__ from None
        raise
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from error
    except NonFiniteReward as error:
        raise ValueError(f"{error}{kept_of(error, folder, trainer.global_step)}") from error
    except (*MISFITS, ArithmeticError) as error:
        if trainer.global_step > 0 or isinstance(error, ValueError) or ran_out(error):
            raise
        raise ValueError(
            f"the first step cannot be taken with this model, data and loop: {unforeseen(error)}"
        ) from error
    ema.put_on(loop)
    if isinstance(loop, Loop):
        loop.make_whole()
    leave_group(trainer)
    return Fitted(trainer.global_step, clock.seconds)


def kept_of(error: NonFiniteReward, folder: Path, step: int) -> str:
    """Keeps the sample whose reward is not finite, and says what was kept."""
    if error.x is None:
        return ""
    path = folder / "not_finite.safetensors"
    save_file({"x": error.x.cpu().contiguous()}, str(path))
    resume = f"; run.resume=true goes on from step {step}" if step else ""
    return f"; the sample is kept as x in {path}{resume}"


def leave_group(trainer: Trainer) -> None:
    """Ends the process group of a distributed run, and all processes but the first.

    A metric that gathered over the group afterwards would wait for ever.
    """
    trainer.strategy.barrier("the end of training")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        sys.exit(0)


def check_trainer(config: DictConfig) -> None:
    """Raises ValueError for what Trainer or logger do not take; makes no run folder."""
    if config.logger == "wandb" and find_spec("wandb") is None:
        raise ValueError("logger=wandb needs wandb, which is not installed: pip install wandb")
    make_trainer(
        config, callbacks=[], logger=False, default_root_dir=".", enable_progress_bar=False
    )


def trainer_of(config: DictConfig, folder: Path, callbacks: list[Callback]) -> Trainer:
    """The Trainer of config.trainer, with callbacks and loggers of the run folder."""
    return make_trainer(
        config,
        callbacks=callbacks,
        logger=loggers_of(config, folder),
        default_root_dir=str(folder),
        enable_progress_bar=any(isinstance(callback, StepProgress) for callback in callbacks),
    )


def loggers_of(config: DictConfig, folder: Path) -> list[Logger]:
    """log.csv and TensorBoard, and Weights & Biases where it is asked for.

    A resumed run goes on under its id there; WANDB_MODE=offline keeps it in the run folder.
    """
    loggers: list[Logger] = [
        CsvLog(folder / LOG),
        TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=FLUSH),
    ]
    if config.logger == "wandb":
        where = str(folder.resolve()).encode()
        one = hashlib.sha256(where).hexdigest()[:16]
        settings = OmegaConf.to_container(config)
        loggers.append(
            WandbLogger(
                save_dir=folder,
                project="steer",
                name=folder.name,
                id=one,
                resume="allow",
                config=settings,
            )
        )
    return loggers


def make_trainer(config: DictConfig, **ours: Any) -> Trainer:
    """Builds the Trainer. Raises ValueError for arguments that it does not take."""
    quiet_lightning()
    if taken := sorted(ours.keys() & config.trainer.keys()):
        raise ValueError(f"trainer.{taken[0]} is set by the recipe; leave it out")
    try:
        return made_as(Trainer, config.trainer, **ours, enable_model_summary=False)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from error


def readable(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, mapped on the CPU. Raises ValueError if it is damaged."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0]}); remove it and start anew"
        ) from error


def to_resume(path: Path) -> Path | None:
    """The checkpoint to resume from, if there is one. Raises ValueError if it is damaged."""
    if not path.exists():
        return None
    readable(path)
    return path
