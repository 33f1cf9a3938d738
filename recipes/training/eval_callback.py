"""Metrics of samples while a map is tuned: logged, drawn, and what an early stop goes by."""

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.evaluation.metrics import Figures
from steer.flow_map import FlowMap
from steer.loops import Ema, RewardTuning
from steer.loops.fsdp2 import draws_here, whole
from steer.loops.interruption import interruptible
from steer.loops.pictures import evaluating

LOWER = ("frechet_distance",)  # figures that improve as they fall


class EvalCallback(Callback):
    """Logs the metrics of samples of the averaged map every `every` steps, as "watch/...".

    Of several processes only the first does so, and the others wait for it: `metrics` must not
    gather. Where the map is sharded all draw the same samples, and the first logs. The course of
    the figures, and the best weights where there is an early stop, are part of the checkpoint.

    Args:
        metrics: (tuned map, step) -> metrics of its samples; NaN and standard errors are not
            logged.
        every: steps between.
        ema: holds the averaged weights.
        stop_by: the figure whose best weights are kept; None keeps the last.
        patience: figures without an improvement after which tuning stops.
        first: the figures before the first step, which may be the best.

    Raises:
        ValueError: every below 1; while tuning, a stop by a figure that is not measured.
    """

    def __init__(
        self,
        metrics: Callable[[FlowMap, int], Figures],
        every: int,
        ema: Ema,
        stop_by: str | None = None,
        patience: int = 3,
        first: Figures | None = None,
    ):
        if every < 1:
            raise ValueError(f"watch_every is at least 1 step; got {every}")
        self.metrics = metrics
        self.every = every
        self.ema = ema
        self.stop_by = stop_by
        self.patience = patience
        self.step = 0
        self.course: list[Figures] = [] if first is None else [{"step": 0, **first}]
        self.stopped = False
        self.best: dict[str, Tensor] = {}
        self.best_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        if self.stop_by is not None and self.step == 0:
            self.keep_best(trainer)
        trainer.should_stop = self.stopped
        if self.step and self.step % self.every == 0 and not self.has_seen(self.step):
            self.look(trainer, pl_module)  # which an interruption prevented

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        step = trainer.global_step
        before = self.step
        self.step = step
        if step != before and step % self.every == 0:
            self.look(trainer, pl_module)

    def has_seen(self, step: int) -> bool:
        """Whether the course has the figures of a step."""
        return any(figures["step"] == step for figures in self.course)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the averaged map, logs its figures, and says whether to stop."""
        step = self.step
        figures: Figures = {}
        if draws_here(trainer, pl_module):
            with (
                interruptible(trainer),
                self.ema.applied(pl_module),
                evaluating(pl_module),
                torch.no_grad(),
            ):
                figures = self.metrics(cast(RewardTuning, pl_module).product(), step)
        if trainer.is_global_zero:
            known = {
                f"watch/{name}": v
                for name, v in figures.items()
                if v == v and not name.endswith("std_error")
            }
            for logger in trainer.loggers:
                logger.log_metrics(known, step)
            self.course.append({"step": step, **figures})
        if self.stop_by is not None:
            best, self.stopped = trainer.strategy.broadcast(self.judged(step))
            if best:
                self.keep_best(trainer)
                self.best_step = step
            trainer.should_stop = self.stopped

    def keep_best(self, trainer: Trainer) -> None:
        """Keeps the averaged weights, in the first process."""
        average = {name: whole(weight) for name, weight in self.ema.average.items()}
        self.best = average if trainer.is_global_zero else {}

    def judged(self, step: int) -> tuple[bool, bool]:
        """Says whether the weights are the best so far, and whether to stop.

        Raises:
            ValueError: a figure that is not measured.
        """
        if not self.course or self.course[-1]["step"] != step:  # not the first process
            return False, False
        seen = [figures.get(str(self.stop_by)) for figures in self.course]
        if seen[-1] is None or seen[-1] != seen[-1]:
            known = [n for n, v in self.course[-1].items() if v == v and n != "step"]
            raise ValueError(
                f"stop.by is a figure of the samples, one of {', '.join(known)}; got {self.stop_by}"
            )
        signs = [-v if self.stop_by in LOWER else v for v in seen if v is not None]
        latest = max(k for k, v in enumerate(signs) if v == max(signs))
        since = len(signs) - 1 - latest
        return since == 0, since >= self.patience

    @torch.no_grad()
    def put_best(self, pl_module: LightningModule) -> int | None:
        """Gives the module its best averaged weights, and returns their step; None if not kept."""
        if not self.best:
            return None
        for name, weight in pl_module.named_parameters():
            if name in self.best:
                weight.copy_(self.best[name])
        return self.best_step

    def state_dict(self) -> dict[str, Any]:
        return {
            "course": self.course,
            "best": self.best,
            "best_step": self.best_step,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course = state_dict["course"]
        self.best = state_dict["best"]
        self.best_step = state_dict["best_step"]
        self.stopped = state_dict["stopped"]
