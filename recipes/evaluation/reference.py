"""What the samples of a map are held against: pictures, by a judge's features, or exact draws in
the plane.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from rewards.networks import Classifier
from steer.annotations import Count, Positive
from steer.data.stream import keyed_generator
from steer.metrics import ClassAgreement, FrechetDistance, GridKl, cell_frequencies
from steer.metrics.energy_distance import energy_distance

Figures = dict[str, float]


class Yardstick(ABC):
    """yardstick(x (P, N, *shape), labels (P,) or None) -> figures; `floor(n)` -> the same for n
    samples of the data.
    """

    @abstractmethod
    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        """How far the samples are from the data."""

    @abstractmethod
    def floor(self, n: int) -> Figures:
        """How far n samples of the data's own law are."""


class AgainstImages(Yardstick):
    """Feature Frechet distance to the test images, and the judge's accuracy where labels were asked
    for.

    Args:
        judge: classifier of images in [0, 1], whose features count.
        test: (images (n, C, H, W) as bytes, labels (n,)): what to be near to.
        train: the same of other images, for the floor.
    """

    def __init__(
        self, judge: Classifier, test: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor]
    ):
        self.judge, self.test, self.train = judge, test, train

    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        figures = {"frechet_distance": self.distance(x.flatten(0, 1))}
        if labels is not None:
            agreement = ClassAgreement(self.judge)
            agreement.update(x, labels)
            estimate = agreement.compute()
            figures |= {
                "judge_accuracy": float(estimate.mean),
                "judge_accuracy_std_error": float(estimate.std_error),
            }
        return figures

    def floor(self, n: int) -> Figures:
        images = self.train[0]
        chosen = torch.randperm(len(images), generator=keyed_generator("floor"))[:n]
        right = (self.judge(self.test[0] / 255).argmax(1) == self.test[1]).double()
        return {
            "frechet_distance": self.distance(images[chosen] / 255),
            "judge_accuracy": float(right.mean()),
            "judge_accuracy_std_error": float(right.std() / len(right) ** 0.5),
        }

    def distance(self, images: Tensor) -> float:
        """To the test images."""
        metric = FrechetDistance(self.judge.features, self.judge.head.in_features)
        metric.update(self.test[0] / 255, real=True)
        metric.update(images, real=False)
        return float(metric.compute())


class AgainstDraws(Yardstick):
    """Energy distance and grid KL to exact draws in the plane.

    Args:
        draw: draw(n, generator) -> (n, 2), such as steer.data.checkerboard.
        draws: how many exact ones to hold the samples against.
        extent, bins: of the grid over [-extent, extent]^2.
    """

    def __init__(
        self,
        draw: Callable[[int, torch.Generator], Tensor],
        draws: Count = 100_000,
        extent: Positive = 3.0,
        bins: Count = 60,
    ):
        self.draw, self.extent, self.bins = draw, extent, bins
        self.real = draw(draws, keyed_generator("real"))

    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        return self.figures(x.flatten(0, 1).cpu())

    def floor(self, n: int) -> Figures:
        return self.figures(self.draw(n, keyed_generator("floor")))

    def figures(self, x: Tensor) -> Figures:
        kl = GridKl(
            cell_frequencies(self.real, self.bins, -self.extent, self.extent),
            -self.extent,
            self.extent,
        )
        kl.update(x)
        few = slice(None, 10_000)  # energy distance takes all pairs
        return {
            "grid_kl": float(kl.compute()),
            "energy_distance": float(energy_distance(x[few], self.real[few])),
        }
