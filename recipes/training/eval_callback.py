"""Metrics of samples, logged while a map is tuned to show over-optimisation of the reward."""

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recipes.evaluation.metrics import Figures
from steer.flow_map import FlowMap
from steer.loops import Ema, RewardTuning
from steer.loops.pictures import evaluating


class EvalCallback(Callback):
    """Logs the metrics of samples of the averaged map every `every` steps, as "watch/...".

    Of several processes only the first does so, and the others wait for its next gradient:
    `metrics` must not gather.

    Args:
        metrics: tuned map -> metrics of its samples; NaN and standard errors are not logged.
        every: steps between.
        ema: holds the averaged weights.
    """

    def __init__(self, metrics: Callable[[FlowMap], Figures], every: int, ema: Ema):
        if every < 1:
            raise ValueError(f"watch_every is at least 1 step; got {every}")
        self.metrics = metrics
        self.every = every
        self.ema = ema
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        step = trainer.global_step
        before = self.step
        self.step = step
        if trainer.is_global_zero and step != before and step % self.every == 0:
            with self.ema.applied(pl_module), evaluating(pl_module), torch.no_grad():
                figures = self.metrics(cast(RewardTuning, pl_module).product())
            known = {
                f"watch/{name}": v
                for name, v in figures.items()
                if v == v and not name.endswith("std_error")
            }
            for logger in trainer.loggers:
                logger.log_metrics(known, step)
