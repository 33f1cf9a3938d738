"""An exponential moving average of the weights, for validation and for the shipped map."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from steer.loops.fsdp2 import like, whole

__all__ = ["Ema"]

OTHER_WEIGHTS = (
    "the checkpoint averages other weights than this model trains: resume with its config"
)


class Ema(Callback):
    """The average w_ema <- d w_ema + (1 - d) w of the trained weights, after every optimizer step.

    d = min(decay, (1 + step) / (10 + step)): the growing decay forgets the random start. Only what
    is trained is averaged, in float32 or better: frozen weights (a LoRA's base, a teacher, a
    reward) are neither copied nor saved a second time, as they would be by Lightning's callback, a
    deep copy of the whole module. Buffers stay the module's own. Validation uses the average, and
    every checkpoint holds both.

    Args:
        decay: d in the long run; the average looks back over about 1 / (1 - decay) steps.

    Raises:
        ValueError: a decay outside [0, 1); on resuming, a checkpoint of other weights.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        self.decay = decay
        self.step = 0
        self.average: dict[str, Tensor] = {}
        self.own: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        learned = _learned(pl_module)
        if self.average and self.average.keys() != learned.keys():
            raise ValueError(OTHER_WEIGHTS)
        source = self.average or learned
        self.average = {
            name: _copy(source[name], weight.device) for name, weight in learned.items()
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shards an average that was loaded after the map was sharded."""
        learned = _learned(pl_module)
        if self.average.keys() != learned.keys():
            raise ValueError(OTHER_WEIGHTS)
        self.average = {name: like(self.average[name], learned[name]) for name in learned}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        if trainer.global_step == self.step:  # a micro-batch: the optimizer has not stepped yet
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, weight in _learned(pl_module).items():
            average = self.average[name]
            average.lerp_(weight.to(average.dtype), 1 - decay)

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """A context in which the module has the averaged weights; afterwards, its own again."""
        self.put_on(pl_module)
        try:
            yield
        finally:
            self.take_off(pl_module)

    @torch.no_grad()
    def put_on(self, pl_module: LightningModule) -> None:
        """Gives the module the averaged weights, for good unless `take_off` follows."""
        for name, weight in _learned(pl_module).items():
            self.own[name] = weight.clone()
            weight.copy_(like(self.average[name], weight))

    @torch.no_grad()
    def take_off(self, pl_module: LightningModule) -> None:
        """Gives the module its own weights back."""
        for name, weight in _learned(pl_module).items():
            weight.copy_(self.own.pop(name))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average:
            self.put_on(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average:
            self.take_off(pl_module)

    def state_dict(self) -> dict[str, Any]:
        average = {name: whole(weight) for name, weight in self.average.items()}
        return {"average": average, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]
        self.step = state_dict["step"]


def _learned(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def _copy(weight: Tensor, device: torch.device) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(device, dtype, copy=True)
