"""Short trainings inside an experiment: no log, no checkpoint, averaged weights at the end."""

from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer

from steer.flow_map import ResidualMap
from steer.loops import Ema, LrSchedule, MapTraining, quiet
from steer.training import Objective


def train(
    flow_map: ResidualMap,
    objective: Objective,
    data: LightningDataModule,
    steps: int,
    lr: float,
    schedule: LrSchedule,
    average: float,
    seed: int = 0,
    watch: Callback | None = None,
    **trainer: Any,
) -> ResidualMap:
    """The frozen map after so many steps.

    Args:
        flow_map: trained in place.
        objective, data: as in `steer.loops.MapTraining`.
        steps: optimiser steps.
        lr, schedule: of Adam.
        average: decay of the moving average of the weights.
        seed: of the loop.
        watch: a further callback.
        trainer: further arguments of Lightning's Trainer.
    """
    quiet()
    flow_map.requires_grad_(True)
    loop = MapTraining(
        flow_map, objective, check_gradient=False, lr=lr, schedule=schedule, seed=seed
    )  # timed, and tested
    ema = Ema(average)
    Trainer(
        max_steps=steps,
        gradient_clip_val=1.0,
        callbacks=[ema, *([watch] if watch else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **trainer,
    ).fit(loop, data)
    ema.put_on(loop)
    return flow_map.eval().requires_grad_(False)
