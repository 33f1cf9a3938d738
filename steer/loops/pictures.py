"""Pictures of a map's samples, drawn while it learns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from steer.annotations import Count, Positive
from steer.conditions import to
from steer.data.stream import keyed_generator
from steer.flow_map import Cond
from steer.loops.averaging import Ema
from steer.loops.fsdp2 import draws_here
from steer.loops.interruption import interruptible
from steer.samplers import Sampler

__all__ = ["ImageGrid", "Pictures", "PlaneHistogram"]


class Pictures(Callback):
    """Draws samples from the same noise and conditions every `every` steps.

    They go to `folder`/step_001000_<name>.png and to the loggers that show pictures.

    Args:
        samplers: name -> sampler, such as {"1_jump": Jump(1), "4_jumps": Jump(4)}.
        x0: the noise (B, *shape), fixed for the whole run so that pictures can be compared.
        picture: samples (B, *shape) -> image (3, H, W) in [0, 1]: `ImageGrid()` or
            `PlaneHistogram()`.
        folder: where the files go.
        every: steps between pictures.
        cond: conditions of the B samples.
        ema: whose averaged weights to draw with; the raw ones without it.
    """

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        x0: Float[Tensor, "b *shape"],
        picture: Callable[[Tensor], Tensor],
        folder: str | Path,
        every: Count = 500,
        cond: Cond = None,
        ema: Ema | None = None,
    ):
        self.samplers = samplers
        self.x0 = x0
        self.cond = cond
        self.picture = picture
        self.folder = Path(folder)
        self.every = every
        self.ema = ema
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        drawn = all(self.path(name).exists() for name in self.samplers)
        if self.step and not trainer.strategy.broadcast(drawn):
            self.draw(trainer, pl_module)  # which an interruption prevented

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        before = self.step
        self.step = trainer.global_step
        if self.step != before:
            self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples of this step and shows them, where they are due."""
        if self.step % self.every or not draws_here(trainer, pl_module):
            return
        with (
            interruptible(trainer),
            self.ema.applied(pl_module) if self.ema else nullcontext(),
            evaluating(pl_module),
            torch.no_grad(),
        ):
            for name, sampler in self.samplers.items():
                x = self.sample(sampler, pl_module)
                if trainer.is_global_zero:
                    self.show(trainer, name, x)

    def path(self, name: str) -> Path:
        """The file of a sampler's picture at this step."""
        return self.folder / f"step_{self.step:06d}_{name}.png"

    def sample(self, sampler: Callable[..., Any], pl_module: LightningModule) -> Tensor:
        """Draws x (B, *shape) from the fixed noise."""
        device = pl_module.device
        generator = keyed_generator("pictures", device=device)
        x0 = self.x0.to(device).unsqueeze(1)
        return sampler(
            pl_module.flow_map, x0, cond=to(self.cond, device), generator=generator
        ).x.squeeze(1)

    def show(self, trainer: Trainer, name: str, x: Tensor) -> None:
        """Writes one picture to its file and to the loggers that show pictures."""
        image = self.picture(x.float().cpu())
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(image, self.path(name))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, image.clamp(0, 1), self.step)
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [image.clamp(0, 1)], self.step)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which every part of the module is in eval mode; afterwards, in its own again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@dataclass(frozen=True)
class ImageGrid:
    """Images in [-1, 1], `columns` to a row; values outside the range are clamped to it."""

    columns: Count = 10

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "3 height width"]:
        return make_grid(((x + 1) / 2).clamp(0, 1), nrow=self.columns, padding=1)


@dataclass(frozen=True)
class PlaneHistogram:
    """Points of [-extent, extent]^2 as `bins` x `bins` counts, dark where there are many."""

    extent: Positive = 3.0
    bins: Count = 128

    def __call__(self, x: Float[Tensor, "b 2"]) -> Float[Tensor, "3 bins bins"]:
        span = [-self.extent, self.extent] * 2
        counts = torch.histogramdd(x, [self.bins, self.bins], range=span).hist
        dark = (counts / max(counts.max().item(), 1.0)).sqrt()
        return (1 - dark).T.flip(0).expand(3, -1, -1)
