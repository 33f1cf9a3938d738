"""The loop that tunes a flow map to a reward."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from steer import counting
from steer.data.stream import step_loader
from steer.flow_map import Cond, FlowMap
from steer.loops.base import Loop
from steer.tilt import Tilt
from steer.tuning.objective import TuningObjective

__all__ = ["RewardTuning"]

Prompts = Callable[[int, torch.Generator], Cond]


class Unprompted:
    """The prompts of an unconditional map: none."""

    def __call__(self, n: int, generator: torch.Generator) -> None:
        return None


class RewardTuning(Loop):
    """Minimises a tuning objective over x0 ~ N(0, I) and prompts, without data.

    The base and the tilt are kept outside the module, so that they are neither trained, averaged
    nor saved.

    Args:
        flow_map: the map to tune; only its weights that require a gradient are.
        base: the map it started from, frozen and in eval mode.
        tilt: the reward and its scale, frozen likewise; a scale for each prompt comes with
            `prompts`, the conditions.
        objective: one of `steer.tuning`, or any other TuningObjective.
        shape: of one sample.
        batch_size: samples per step and process.
        prompts: prompts(n, generator) -> n conditions, or None.
        optimizer: lr, schedule, weight_decay, betas and seed of `Loop`.

    Raises:
        ValueError: a base that is the map itself, or a scale for each prompt without the prompts.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        base: FlowMap,
        tilt: Tilt,
        objective: TuningObjective,
        shape: Sequence[int],
        batch_size: int,
        prompts: Prompts | None = None,
        **optimizer: Any,
    ):
        super().__init__(**optimizer)
        if base is flow_map:
            raise ValueError(
                "base must be a frozen copy of flow_map, not flow_map itself: use copy.deepcopy"
            )
        if tilt.scale.ndim and tilt.prompts is None:
            raise ValueError(
                "tuning draws its prompts at random and cannot match a scale to its prompt by its"
                " place; give steer.Tilt(reward, scale, prompts=the condition of each)"
            )
        self.flow_map = flow_map
        self.objective = objective
        self.frozen = (base, tilt)  # a tuple hides modules from torch
        self.shape = tuple(shape)
        self.batch_size = batch_size
        self.prompts = prompts or Unprompted()
        self.spent = counting.Evaluations()

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.draw, self.seed, self.trainer)

    def draw(self, generator: torch.Generator) -> tuple[Cond]:
        """Draws the prompts of one step, in a tuple of one."""
        return (self.prompts(self.batch_size, generator),)

    def on_fit_start(self) -> None:
        for part in self.frozen:
            part.to(self.device)

    def training_step(self, batch: tuple[Cond], batch_idx: int) -> Tensor:
        base, tilt = self.frozen
        generator = self.step_generator(batch_idx)
        x0 = torch.randn(self.batch_size, *self.shape, generator=generator, device=self.device)
        step = self.global_step
        with counting.count() as self.tally:  # backwards are counted later, in Lightning's backward
            loss = self.objective(self.flow_map, base, tilt, x0, batch[0], generator, step)
        return self.report(loss, self.batch_size)

    def on_after_backward(self) -> None:
        """Adds what the step cost to what the run has cost, over all processes, and logs it."""
        ranks = self.trainer.world_size
        step = asdict(self.tally)
        spent = {name: n + ranks * step[name] for name, n in asdict(self.spent).items()}
        self.spent = counting.Evaluations(**spent)
        self.log_dict({f"spent/{name}": float(n) for name, n in spent.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spent"] = asdict(self.spent)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.spent = counting.Evaluations(**checkpoint["spent"])
