"""A filter of Lightning's tips and of warnings that do not apply here."""

import logging
import warnings

__all__ = ["quiet"]

UNWANTED = (
    ".*does not have many workers.*",
    ".*You passed in a `val_dataloader` but have no `validation_step`.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*sync_dist=True.*",
    ".*in eval mode at the start of training.*",
    ".*`torch.jit.script` is deprecated.*",
)


def quiet() -> None:
    """Silences Lightning's tips and the warnings that do not apply to our streams and loops.

    Call it before a Trainer is made. Errors, and warnings about anything else, still come through.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in UNWANTED:
        warnings.filterwarnings("ignore", message=message)
