"""The log-probability that a classifier gives to the class asked for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rewards.base import Cond, Reward
from steer.conditions import field

__all__ = ["ClassLogProbability"]


class ClassLogProbability(Reward):
    """r(x) = log p(y | x) = log softmax(classifier(x))[y], at most 0.

    Tilting p(x) by it at scale 1 gives the classifier's p(x | y), by Bayes' rule, with Z = p(y).

    Args:
        classifier: images (b, c, h, w) -> logits (b, classes); frozen in place.
        target: y, the same class for every sample; None takes each sample's own label from cond,
            (b,) whole numbers, or the `labels` of a steer.Condition.

    Raises:
        ValueError: when called, if a label is missing or is none of the classes.
    """

    def __init__(self, classifier: nn.Module, target: int | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.target = target
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        logits = self.classifier(x)
        labels = self.labels(cond, samples=len(x), classes=logits.shape[-1]).to(x.device)
        return logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)

    def labels(self, cond: Cond, samples: int, classes: int) -> Int[Tensor, " b"]:
        """Return the class of each sample, (b,). Raises ValueError for a missing or wrong label."""
        labels = (
            field(cond, "labels") if self.target is None else torch.full((samples,), self.target)
        )
        if (
            not isinstance(labels, Tensor)
            or labels.shape != (samples,)
            or labels.is_floating_point()
        ):
            raise ValueError(
                "ClassLogProbability: expected one class label per sample in cond, "
                f"got {described(labels)}: give target=, or labels as a LongTensor"
            )
        if wrong := labels[(labels < 0) | (labels >= classes)].tolist():
            raise ValueError(
                f"ClassLogProbability: expected labels from 0 to {classes - 1}, got {wrong[0]}: "
                "give target= where samples carry no label"
            )
        return labels.long()

    def extra_repr(self) -> str:
        return f"target={self.target}"


def described(value: Cond) -> str:
    """Describe a condition for an error."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return "none" if value is None else type(value).__name__
