"""Stable targets and label inference, against the empirical law and posteriors in closed form."""

import math

import pytest
import torch
from torch.nn import functional as F

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.networks import InferredClass, Mlp
from steer.training import FlowMatching, LabelInference, StableTarget
from steer.training.gradient_check import check_gradient
from steer.training.stable_target import empirical_velocity


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=7, seed=1):
    return torch.randn(n, 3, dtype=torch.float64, generator=seeded(seed))


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr)
def test_the_empirical_velocity_is_that_of_a_mixture_of_points(schedule):
    data = points()
    mixture = GaussianMixture(data, 1e-7, [1 / 7] * 7, schedule)
    x = torch.randn(20, 3, dtype=torch.float64, generator=seeded(2))
    t = torch.linspace(0.02, 0.9, 20, dtype=torch.float64)
    found = empirical_velocity(schedule, data, x, t)
    torch.testing.assert_close(found, mixture.velocity(x, t), rtol=1e-7, atol=1e-7)


class Exact(torch.nn.Module):
    """The average velocity on the diagonal of the empirical law, off by an offset."""

    def __init__(self, data, offset=0.0):
        super().__init__()
        self.data = data
        self.offset = torch.nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        return empirical_velocity(Linear(), self.data, x, t) + self.offset


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_early_residual_is_the_error_itself(offset):
    """No variance: an offset of the velocity is the loss's root, at every sample."""
    data = points()
    flow_map = ResidualMap(Exact(data, offset), Linear())
    objective = StableTarget(data, until=1.0, early=0.5)
    x1 = data.repeat(9, 1)
    x0 = torch.randn(63, 3, dtype=torch.float64, generator=seeded(3))
    loss = objective(flow_map, x0, x1, None, seeded(4), 0)
    assert float(loss.total.detach()) == pytest.approx(offset**2, abs=1e-12)
    assert (loss.residuals[0].t[:32] < 0.2).all()
    loss.total.backward()
    assert float(flow_map.network.offset.grad) == pytest.approx(2 * offset, abs=1e-9)


def test_late_targets_average_to_the_velocity():
    """The path's own I_t', or a conditional teacher's velocity: no gradient in the mean."""
    data = points()
    n = 40_000
    label = torch.arange(n) % 7
    x0 = torch.randn(n, 3, dtype=torch.float64, generator=seeded(5))
    teacher = ResidualMap(PointVelocities(data), Linear())
    for late in (None, teacher):
        objective = StableTarget(data, until=0.1, teacher=late)
        flow_map = ResidualMap(Exact(data), Linear())
        loss = objective(flow_map, x0, data[label], label, seeded(6), 0)
        loss.total.backward()
        slope = float(flow_map.network.offset.grad)
        error = 2 * math.sqrt(float(loss.total.detach()) / (3 * n))
        assert abs(slope) < 4 * error
        assert error < 0.03


class PointVelocities(torch.nn.Module):
    """The velocity (z_label - x) / (1 - t) toward one labelled point."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def forward(self, x, s, t, cond):
        return (self.data[cond] - x) / (1 - t)[:, None]


class FixedLogits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.4, -0.1, 1.2]))

    def forward(self, x, s, t):
        return self.logits.expand(len(x), 3)


def small_map():
    class WithProbabilities(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Mlp(2, width=8)

        def forward(self, x, s, t, p):
            return self.network(x, s, t) * p[:, :1]

    return ResidualMap(InferredClass(WithProbabilities(), FixedLogits()), Linear())


def test_the_cross_entropy_is_added_and_comes_alone_at_first():
    flow_map = small_map()
    x0 = torch.randn(30, 2, generator=seeded(7))
    x1 = torch.randn(30, 2, generator=seeded(8))
    labels = torch.arange(30) % 3
    entropy = F.cross_entropy(flow_map.network.classifier.logits.expand(30, 3), labels)
    objective = LabelInference(FlowMatching(), weight=0.25, classifier_steps=5)
    alone = objective(flow_map, x0, x1, labels, seeded(9), 4)
    assert float(alone.total) == pytest.approx(float(entropy), rel=1e-6)
    both = objective(flow_map, x0, x1, labels, seeded(9), 5)
    assert float(both.total) == pytest.approx(
        float(both.terms["diagonal"]) + 0.25 * float(entropy), rel=1e-6
    )


def test_what_they_need_is_said():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="InferredClass; got a Mlp"):
        LabelInference(FlowMatching())(
            ResidualMap(Mlp(2, width=8), Linear()), x, x, torch.zeros(4).long(), seeded(), 0
        )
    with pytest.raises(ValueError, match="class labels"):
        LabelInference(FlowMatching())(small_map(), x, x, None, seeded(), 0)
    with pytest.raises(ValueError, match="until"):
        StableTarget(x, until=1.5)
    with pytest.raises(ValueError, match=r"samples of shape \(2,\), the batch of \(3,\)"):
        StableTarget(x)(small_map(), torch.zeros(4, 3), torch.zeros(4, 3), None, seeded(), 0)


@pytest.mark.parametrize("classifier_steps", [0, 5])
def test_the_gradient_is_that_of_the_loss(classifier_steps):
    """In float64, of which nine digits are left: nothing is rounded to float32 inside."""
    x1 = torch.randn(6, 2, generator=seeded(10))
    labels = torch.arange(6) % 3
    objective = LabelInference(FlowMatching(), classifier_steps=classifier_steps)
    found = check_gradient(objective, small_map(), x1, labels, samples=4)
    assert found.size > 1e-5
    assert found.error < 1e-9
