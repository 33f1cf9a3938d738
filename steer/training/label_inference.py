"""The classifier inside an unconditional network, taught beside the map by cross-entropy."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from steer.flow_map import Cond, ResidualMap
from steer.networks.inferred import InferredClass
from steer.training.base import Loss, Objective


class LabelInference(Objective):
    """L = L_objective + weight E[-log p(c | x_t)], x_t the interpolant of a sample of class c, t uniform.

    The minimiser of the second term is the posterior of the class, by which the conditional velocities make up the
    unconditional one (steer.networks.inferred).

    Args:
        objective: what teaches the map; its teachers are given the labels.
        weight: of the cross-entropy.

    Raises:
        ValueError: when called on a map whose network has no such classifier, or without labels.
    """

    def __init__(self, objective: Objective, weight: float = 0.1):
        super().__init__()
        self.objective, self.weight = objective, weight
        self.guidance = objective.guidance

    def forward(
        self, flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond, generator: Generator, step: int
    ) -> Loss:
        network = flow_map.network
        if not isinstance(network, InferredClass):
            raise ValueError(f"LabelInference trains a steer.networks.InferredClass; got a {type(network).__name__}")
        if cond is None:
            raise ValueError("LabelInference learns from class labels, and the data have none")
        loss = self.objective(flow_map, x0, x1, cond, generator, step)
        t = torch.rand(len(x1), generator=generator, device=generator.device)
        logits = network.classifier(flow_map.schedule.interpolate(x0, x1, t), t, t)
        entropy = F.cross_entropy(logits.float(), cond, reduction="none")
        return loss.plus(Loss.of(self, entropy.mean(), "cross_entropy", entropy, t, t), self.weight)
