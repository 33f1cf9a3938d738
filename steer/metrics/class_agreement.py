"""The judge's accuracy: how often a classifier sees in a sample what was asked for."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from steer.metrics.batches import in_batches
from steer.metrics.estimate import PromptMean

__all__ = ["ClassAgreement"]


class ClassAgreement(PromptMean):
    """Share of samples that a classifier gives the asked label, argmax_k logits_k(x) = label, with
    standard errors.

    update(x (P, N, *shape), labels (P,), log_w (P, N) = None); compute() -> Estimate. All right or
    all wrong gives a standard error of 0: then 3 / (P N) bounds the rate of the unseen with 95 %
    confidence.

    Args:
        classifier: (B, *shape) -> logits (B, K). A module runs as it is: put it in eval mode first.
        max_batch: samples given to the classifier at once.
        metric: settings of torchmetrics' Metric, such as sync_on_compute=False for one that stays
            in its process.
    """

    def __init__(
        self, classifier: Callable[[Tensor], Tensor], max_batch: int = 512, **metric: Any
    ) -> None:
        super().__init__(**metric)
        self.classifier = classifier
        self.max_batch = max_batch

    def update(
        self,
        x: Float[Tensor, "p n *shape"],
        labels: Int[Tensor, " p"],
        log_w: Float[Tensor, "p n"] | None = None,
    ) -> None:
        """Adds prompts, each with all its particles and its one label.

        Raises:
            ValueError: if the classifier's answer is not of shape (B, K) or not finite.
        """
        logits = in_batches(self.classifier, x.flatten(0, 1), self.max_batch)
        if logits.ndim != 2:
            raise ValueError(
                f"expected logits of shape (B, K), got {tuple(logits.shape)}; return one row per sample"
            )
        agrees = logits.argmax(-1).reshape(x.shape[:2]) == labels[:, None]
        self.add(agrees.double(), log_w)
