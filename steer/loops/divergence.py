"""What a run that diverges says: where, at which times, what is left of it, and what to try."""

from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor

from steer.loops.last_checkpoint import LastCheckpoint
from steer.training import Loss


def of_loss(loss: Loss, step: int, trainer: Trainer) -> str:
    """A loss that is not finite: its first bad term, and the objective and pair of times of the first bad residual."""
    return (
        f"the training loss is {loss.total.item()} at step {step}{_culprit(loss)}{_kept(trainer)}: {_advice(trainer)}"
    )


def of_gradient(norm: Tensor, step: int, trainer: Trainer) -> str:
    """A gradient that is not finite under a loss that is."""
    return f"the gradient's norm is {norm.item()} at step {step}{_kept(trainer)}: {_advice(trainer)}"


def _culprit(loss: Loss) -> str:
    for part in loss.residuals:
        if (bad := (~part.squared.isfinite()).nonzero()).numel():
            k = int(bad[0])
            return f", from {part.of} at (s, t) = ({float(part.s[k]):.4g}, {float(part.t[k]):.4g})"
    return f", from its term {name!r}" if (name := _first_bad(loss.terms)) else ""


def _first_bad(terms: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in terms.items() if not value.isfinite().all()), None)


def _kept(trainer: Trainer) -> str:
    last = next((c for c in trainer.callbacks if isinstance(c, LastCheckpoint)), None)  # type: ignore[attr-defined]
    if last is None or not last.path.exists():
        return ""
    return f"; the weights of step {last.saved} are kept in {last.path} (start={last.path.parent} goes on from them)"


def _advice(trainer: Trainer) -> str:
    clipping = "" if trainer.gradient_clip_val else ", set trainer.gradient_clip_val=1"
    precision = ", or train in precision 32-true or bf16-mixed" if str(trainer.precision).startswith("16") else ""
    return f"lower loop.lr{clipping}{precision}"
