"""Label inference: cross-entropy of a class posterior on noisy samples, beside another objective.

    L = L_objective + weight E[-log p(c | I_t)],     I_t = alpha_t x1 + sigma_t x0, t uniform.

The minimiser of the second term is the class posterior by which conditional velocities average to
the unconditional one; see `steer.networks.inferred`.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from steer.conditions import field, is_labels
from steer.flow_map import Cond, ResidualMap
from steer.networks import InferredClass
from steer.training.base import Loss, Objective
from steer.training.times import uniform

__all__ = ["LabelInference"]


class LabelInference(Objective):
    """Another objective, plus the cross-entropy of the classifier of an `InferredClass` network.

    Args:
        objective: the objective of the map; its teachers receive the labels.
        weight: of the cross-entropy.
        classifier_steps: first steps in which the classifier alone is trained.

    Raises:
        ValueError: when called, on a map whose network has no such classifier, or without labels.
    """

    def __init__(self, objective: Objective, weight: float = 0.1, classifier_steps: int = 0):
        super().__init__()
        self.objective = objective
        self.weight = weight
        self.classifier_steps = classifier_steps
        self.guidance = objective.guidance

    @property
    def learns_from(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sources of the objective, and the labels of the data."""
        return tuple(dict.fromkeys((*self.objective.learns_from, "data")))

    def forward(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        cond: Cond,
        generator: Generator,
        step: int,
    ) -> Loss:
        network = flow_map.network
        if not isinstance(network, InferredClass):
            raise ValueError(
                "LabelInference trains a steer.networks.InferredClass;"
                f" got a {type(network).__name__}"
            )
        labels = field(cond, "labels")
        if not is_labels(labels):
            raise ValueError("LabelInference needs class labels, and the data have none")
        t = uniform(len(x1), generator)
        logits = network.classifier(flow_map.schedule.interpolate(x0, x1, t), t, t)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        entropy = F.cross_entropy(logits, labels, reduction="none")
        label = Loss.of(self, entropy.mean(), "cross_entropy", entropy, t, t)
        if step < self.classifier_steps:
            # DDP wants every weight in every loss
            idle = sum(p.sum() for p in network.network.parameters())
            return label._replace(total=label.total + 0 * idle)
        loss = self.objective(flow_map, x0, x1, cond, generator, step)
        return loss.plus(label, self.weight)
