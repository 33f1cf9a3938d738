"""The error of a run that diverges: where, at which times, the last good weights, what to try."""

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from steer.loops.last_checkpoint import LastCheckpoint
from steer.training import Loss, Residuals

__all__ = ["Diverged"]


class Diverged(ValueError):
    """A loss or a gradient that is not finite.

    Attributes:
        kept: the checkpoint that is left of an earlier step, or None.
    """

    def __init__(self, what: str, step: int, trainer: Trainer):
        self.kept = kept(trainer, step)
        left = ""
        if self.kept is not None:
            left = f"; the weights of step {step_of(self.kept)} are kept in {self.kept}"
        super().__init__(f"{what}{left}: {advice(trainer)}")


def of_loss(loss: Loss, step: int, trainer: Trainer) -> Diverged:
    """Builds the error of a loss that is not finite, here or in another process.

    It names the objective and the times of its first bad residual.
    """
    what = f"the training loss of another process is not finite at step {step}"
    if not loss.total.isfinite():
        what = f"the training loss is {loss.total.item()} at step {step}{culprit(loss)}"
    return Diverged(what, step, trainer)


def of_gradient(norm: Tensor, step: int, trainer: Trainer) -> Diverged:
    """Builds the error of a gradient that is not finite under a finite loss."""
    return Diverged(f"the gradient's norm is {norm.item()} at step {step}", step, trainer)


def culprit(loss: Loss) -> str:
    """Describes the part of a loss that is not finite."""
    for part in loss.residuals:
        if (bad := (~part.squared.isfinite()).nonzero()).numel():
            of = f"{len(bad)} of the {len(part.squared)} residuals of {part.of}"
            return f", from {of}{times(part, int(bad[0]))}"
    if loss.residuals and all(value.isfinite().all() for value in loss.terms.values()):
        return ", from the weighting, the residuals being finite"
    return f", from its term {name!r}" if (name := first_bad(loss.terms)) else ""


def times(part: Residuals, k: int) -> str:
    """Describes the times of the k-th residual."""
    return f", the first at (s, t) = ({float(part.s[k]):.4g}, {float(part.t[k]):.4g})"


def first_bad(terms: Mapping[str, Tensor]) -> str | None:
    """Finds the first term that is not finite."""
    return next((name for name, value in terms.items() if not value.isfinite().all()), None)


def kept(trainer: Trainer, step: int) -> Path | None:
    """Finds the last checkpoint, unless it holds the very weights that failed."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    last = next((each for each in callbacks if isinstance(each, LastCheckpoint)), None)
    if last is None or not last.path.exists() or step_of(last.path) >= step:
        return None
    return last.path


def step_of(path: Path) -> int:
    """Reads the step after which a checkpoint was written."""
    return int(torch.load(path, weights_only=True, map_location="cpu", mmap=True)["global_step"])


def advice(trainer: Trainer) -> str:
    """Suggests what to change in this run."""
    clipping = "" if trainer.gradient_clip_val else ", set the Trainer's gradient_clip_val=1"
    precision = ""
    if str(trainer.precision).startswith("16"):
        precision = ", or train in precision 32-true or bf16-mixed"
    return f"lower lr{clipping}{precision}"
