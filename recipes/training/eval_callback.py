"""Figures that were not tuned for, logged while tuning: a reward that is being fooled shows itself
here first.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recipes.evaluation.metrics import Figures
from steer.flow_map import FlowMap
from steer.loops import Ema
from steer.loops.pictures import evaluating


class Watch(Callback):
    """Every `every` steps, logs the figures of samples of the averaged map, as "watch/...".

    Among several processes the first one does it, while the others wait for its next gradient:
    `figures` must not gather.

    Args:
        figures: map -> figures; those that are not numbers are left out.
        every: steps between.
        ema: whose averaged weights to watch.
    """

    def __init__(self, figures: Callable[[FlowMap], Figures], every: int, ema: Ema):
        if every < 1:
            raise ValueError(f"watch_every is at least 1 step; got {every}")
        self.figures, self.every, self.ema = figures, every, ema
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        step, before = trainer.global_step, self.step
        self.step = step
        if trainer.is_global_zero and step != before and step % self.every == 0:
            with self.ema.applied(pl_module), evaluating(pl_module), torch.no_grad():
                figures = self.figures(cast(FlowMap, pl_module.flow_map))
            known = {
                f"watch/{name}": v
                for name, v in figures.items()
                if v == v and not name.endswith("std_error")
            }
            for logger in trainer.loggers:
                logger.log_metrics(known, step)
