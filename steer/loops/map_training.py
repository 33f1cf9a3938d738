"""The training loop of a flow map on data."""

import warnings
from typing import Any

import torch
from torch import Tensor

from steer.conditions import check, drop, single
from steer.flow_map import Cond, ResidualMap
from steer.loops.base import Loop
from steer.training import Objective, UncheckedGradient, WrongGradient
from steer.training.gradient_check import check_gradient

__all__ = ["MapTraining"]

LATE = 10**6  # a step past the warm-ups of a training without an end


class MapTraining(Loop):
    """Minimises an objective over pairs (x0, x1), x0 ~ N(0, I) and x1 data, on batches (x1, cond).

    The loss, any `torch.func.jvp` included, is computed inside `training_step`, which Lightning
    runs inside its DDP wrapper: N processes of batch B take the gradient of one process of batch N
    B.

    Args:
        flow_map: the map to learn.
        objective: one of `steer.training`; if it is a module, its parameters are learned too.
        drop_cond: probability of training a sample without its condition, so that the map learns
            both the conditional and the unconditional distribution.
        null: the condition of a sample without one, one entry, such as that of the empty text; by
            default label -1, embedding zero, the empty text, and tokens of zero of which a mask
            leaves one.
        check_gradient: compare the gradient of the loss with a finite difference before the first
            step of a run, new or resumed; see `steer.training.check_gradient`. It changes nothing,
            and takes about as long as a step. A training whose network or objective cannot be run
            in float64 goes on with a warning. Not under the strategy `Fsdp2`.
        optimizer: lr, schedule, weight_decay, betas and seed of `Loop`.

    Raises:
        WrongGradient: in the first step, naming the layer whose derivative is wrong.
        ValueError: data that is not finite.
    """

    def __init__(
        self,
        flow_map: ResidualMap,
        objective: Objective,
        drop_cond: float = 0.0,
        null: Cond = None,
        check_gradient: bool = True,
        **optimizer: Any,
    ):
        super().__init__(**optimizer)
        self.flow_map = flow_map
        self.objective = objective
        self.drop_cond = drop_cond
        self.null = single(null, "null")
        self.check_gradient = check_gradient
        self.checked = False

    def on_train_start(self) -> None:
        self.checked = not self.check_gradient or self.device_mesh is not None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["guidance"] = guidance_of(self.flow_map, self.objective)

    def training_step(self, batch: tuple[Tensor, Cond], batch_idx: int) -> Tensor:
        x1, cond = batch
        check(cond, len(x1))
        unchecked = None if self.checked else self.check(x1, cond)
        generator = self.step_generator(batch_idx)
        x0 = torch.randn(x1.shape, generator=generator, device=self.device, dtype=x1.dtype)
        cond = drop(cond, self.drop_cond, generator, self.null)
        loss = self.objective(self.flow_map, x0, x1, cond, generator, self.global_step)
        if not loss.total.isfinite():
            self.check_data(x1)
        if unchecked is not None:  # after the loss, whose own exceptions say more
            warnings.warn(str(unchecked), stacklevel=2)
        return self.report(loss, len(x1))

    def check_data(self, x1: Tensor) -> None:
        """Raises ValueError for data that is not finite, naming the first sample."""
        bad = (~x1.flatten(1).isfinite().all(1)).nonzero()
        if bad.numel():
            raise ValueError(
                f"sample {int(bad[0])} of the batch of step {self.global_step} is not finite;"
                " correct the data"
            )

    def check(self, x1: Tensor, cond: Cond) -> UncheckedGradient | None:
        """Compares the gradient with a finite difference.

        Returns:
            The reason why it could not be compared; None if it was.

        Raises:
            WrongGradient: in all processes alike.
        """
        self.checked = True
        wrong: WrongGradient | None = None
        unchecked: UncheckedGradient | None = None
        last = self.trainer.max_steps - 1 if self.trainer.max_steps > 0 else LATE
        try:
            check_gradient(self.objective, self.flow_map, x1, cond, last)
        except WrongGradient as error:
            wrong = error
        except UncheckedGradient as error:
            unchecked = error
        anywhere = self.trainer.strategy.reduce(
            torch.tensor(float(wrong is not None), device=self.device)
        )
        if anywhere > 0:
            raise wrong or WrongGradient(
                "the gradient of the loss is wrong in another process; see there"
            )
        return unchecked


def guidance_of(flow_map: ResidualMap, objective: Objective) -> float:
    """Finds the weight of classifier-free guidance that the map has once it is trained."""
    taught = getattr(objective, "guidance", 1.0)
    return taught if taught != 1 else flow_map.guidance
