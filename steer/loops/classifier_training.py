"""The training loop of a classifier, which serves as a reward, a judge or a feature extractor."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from steer.loops.base import Loop
from steer.training import Loss

__all__ = ["ClassifierTraining", "FlipAndShift", "to_unit"]

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


class ClassifierTraining(Loop):
    """Cross-entropy with label smoothing on augmented images; logs validation accuracy.

    Args:
        network: images -> logits (B, classes).
        classes: how many.
        label_smoothing: mass given to the other classes.
        augmentation: (x, generator) -> x, such as `FlipAndShift`.
        prepare: from the data set's x to the network's input, such as `to_unit` for images in [0,
            1].
        optimizer: lr, schedule, weight_decay, betas and seed of `Loop`.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        label_smoothing: float = 0.0,
        augmentation: Augmentation | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        **optimizer: Any,
    ):
        super().__init__(**optimizer)
        self.network = network
        self.label_smoothing = label_smoothing
        self.augmentation = augmentation
        self.prepare = prepare or nn.Identity()
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        generator = self.step_generator(batch_idx)
        if self.augmentation is not None:
            x = self.augmentation(x, generator)
        logits = self.network(self.prepare(x))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return self.report(Loss(loss, {"accuracy": accuracy}), len(x))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, labels = batch
        logits = self.network(self.prepare(x))
        self.accuracy(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels), batch_size=len(x), sync_dist=True)
        self.log("val/accuracy", self.accuracy, prog_bar=True, batch_size=len(x))


class FlipAndShift:
    """Mirrors each image with probability 1/2 and moves it by up to `shift` pixels either way.

    The edge is repeated.
    """

    def __init__(self, shift: int = 2):
        self.shift = shift

    def __call__(
        self, x: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> Float[Tensor, "b c h w"]:
        mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        sizes = 2 * self.shift + 1
        down, right = torch.randint(sizes, (2, len(x)), generator=generator, device=x.device)
        return crop(F.pad(x, (self.shift,) * 4, mode="replicate"), down, right, *x.shape[-2:])


def crop(
    x: Float[Tensor, "b c h w"],
    top: Int[Tensor, "b"],
    left: Int[Tensor, "b"],
    height: int,
    width: int,
) -> Float[Tensor, "b c height width"]:
    """Cuts from each image its own window, `height` x `width` with the given corner."""
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    sample = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def to_unit(x: Tensor) -> Tensor:
    """Scales [-1, 1] to [0, 1]."""
    return (x + 1) / 2
