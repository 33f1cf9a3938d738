"""Unconditional networks from conditional ones, against mixtures of Gaussians."""

import pytest
import torch

from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.networks import ByCondition, ClassCondition, InferredClass, NoisyClassifier, UNet

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.0]], dtype=torch.float64)
STDS, WEIGHTS = 0.6, [0.3, 0.7]


class ClassVelocities(torch.nn.Module):
    """The mean over class probabilities of the exact conditional velocities."""

    def forward(self, x, s, t, p):
        each = [GaussianMixture(mean[None], STDS, [1.0]).velocity(x, s) for mean in MEANS]
        return torch.einsum("bc,cbd->bd", p, torch.stack(each))


class ClassPosterior(torch.nn.Module):
    """Logits of the exact p(class | x_s)."""

    def forward(self, x, s, t):
        variance = (s * STDS) ** 2 + (1 - s) ** 2
        distance = (x[:, None] - s[:, None, None] * MEANS).square().sum(2)
        return torch.tensor(WEIGHTS, dtype=x.dtype).log() - distance / (2 * variance[:, None])


def test_the_inferred_class_gives_the_unconditional_velocity():
    flow_map = ResidualMap(InferredClass(ClassVelocities(), ClassPosterior()), Linear())
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    mixture = GaussianMixture(MEANS, STDS, WEIGHTS)
    torch.testing.assert_close(
        flow_map.velocity(x, t), mixture.velocity(x, t), rtol=1e-10, atol=1e-10
    )


class Scaled(torch.nn.Module):
    """(1 + label) x, or -x without a label."""

    def forward(self, x, s, t, cond=None):
        return -x if cond is None else (1 + cond)[:, None] * x


def test_a_label_or_none_chooses_the_network():
    network = ByCondition(Scaled(), Scaled())
    x = torch.randn(5, 3)
    t = torch.zeros(5)
    labels = torch.tensor([2, -1, 0, -1, 1])
    expected = torch.tensor([3.0, -1.0, 1.0, -1.0, 2.0])[:, None] * x
    torch.testing.assert_close(network(x, t, t, labels), expected)
    torch.testing.assert_close(network(x, t, t), -x)
    torch.testing.assert_close(network(x, t, t, torch.full((5,), -1)), -x)
    torch.testing.assert_close(network(x[:1], t[:1], t[:1], labels[:1]), 3 * x[:1])


def test_a_wrong_label_is_the_conditional_networks_error():
    unet = UNet(1, [8, 8], condition=ClassCondition(3, 32))
    network = ByCondition(unet, Scaled())
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="class labels are integers of shape"):
        network(x, torch.zeros(2), torch.zeros(2), torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("labels", [[1, 2], ["a cat", "a dog"]])
def test_labels_that_are_no_tensor_are_refused_in_one_line(labels):
    unet = UNet(1, [8, 8], condition=ClassCondition(3, 32))
    x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    for network in (unet, ByCondition(unet, Scaled())):
        with pytest.raises(ValueError, match=r"class labels as a tensor, cond=torch.tensor"):
            network(x, t, t, labels)


def test_class_probabilities_are_a_mean_of_embeddings():
    condition = ClassCondition(3, 4)
    like = torch.zeros(2, 4)
    p = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    embedding = condition(p, like)
    each = condition(torch.arange(3), torch.zeros(3, 4))
    torch.testing.assert_close(embedding, p @ each)
    torch.testing.assert_close(embedding[1], each[1])
    with pytest.raises(ValueError, match="class labels are integers"):
        condition(p[:, :2], like)


def test_a_noisy_classifier_takes_images_of_its_size_alone():
    classifier = NoisyClassifier(1, (8, 12), 5, width=8)
    assert classifier(torch.zeros(2, 1, 8, 12), torch.zeros(2), torch.ones(2)).shape == (2, 5)
    with pytest.raises(ValueError, match="image_size"):
        NoisyClassifier(1, (6, 8), 5)
    with pytest.raises(ValueError, match=r"images \(B, 1, H, W\)"):
        classifier(torch.zeros(2, 3, 8, 12), torch.zeros(2), torch.ones(2))
