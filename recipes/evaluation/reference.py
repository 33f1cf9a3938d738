"""References that samples are compared with: a data set of images, or exact draws in the plane."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from rewards.networks import Classifier, ImageEncoder
from steer.annotations import Count, Positive
from steer.data.stream import keyed_generator
from steer.metrics import ClassAgreement, FrechetDistance, GridKl, cell_frequencies
from steer.metrics.energy_distance import energy_distance

SHOWN = 96  # images of the data
Figures = dict[str, float]


class Reference(ABC):
    """reference(x (P, N, *shape), labels (P,) or None) -> distances of samples to the data."""

    @abstractmethod
    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        """The distances of the samples to the data."""

    @abstractmethod
    def floor(self, n: int, labels: Tensor | None = None) -> Figures:
        """The same distances of n samples of the data distribution itself, of these labels."""

    def examples(self, labels: Tensor | None = None) -> Tensor | None:
        """A few images (n, C, H, W) of the data, to be shown beside samples; None of other data."""
        return None


class ImageReference(Reference):
    """Frechet distance to test images in a judge's features, and a classifier's accuracy on labels.

    Args:
        judge: of images in [0, 1], whose features are compared.
        test: images (n, C, H, W) as bytes, and labels (n,) or n captions, to compare with.
        train: the same of other images, for the floor.
        of_labels: compare with the images of the labels asked for, not with all.
    """

    def __init__(
        self,
        judge: ImageEncoder,
        test: tuple[Tensor, Tensor | list[str]],
        train: tuple[Tensor, Tensor | list[str]],
        of_labels: bool = False,
    ):
        self.judge = judge
        self.test = test
        self.train = train
        self.of_labels = of_labels

    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        if self.of_labels and labels is None:
            raise ValueError(
                "the images of a label are compared with samples of that label; give"
                " condition.labels, or of_labels=false"
            )
        asked = labels if self.of_labels else None
        figures = {"frechet_distance": self.distance(x.flatten(0, 1), asked)}
        if labels is not None and isinstance(self.judge, Classifier):
            agreement = ClassAgreement(self.judge)
            agreement.update(x, labels)
            estimate = agreement.compute()
            figures |= {
                "judge_accuracy": float(estimate.mean),
                "judge_accuracy_std_error": float(estimate.std_error),
            }
        return figures

    def floor(self, n: int, labels: Tensor | None = None) -> Figures:
        asked = labels if self.of_labels else None
        images = self.train[0]
        if asked is not None:
            images = images[labelled(self.train[1], asked)]
        chosen = torch.randperm(len(images), generator=keyed_generator("floor"))[:n]
        figures = {"frechet_distance": self.distance(images[chosen] / 255, asked)}
        if isinstance(self.judge, Classifier) and isinstance(self.test[1], Tensor):
            right = (self.judge(self.test[0] / 255).argmax(1) == self.test[1]).double()
            figures |= {
                "judge_accuracy": float(right.mean()),
                "judge_accuracy_std_error": float(right.std() / len(right) ** 0.5),
            }
        return figures

    def examples(self, labels: Tensor | None = None) -> Tensor:
        images = self.test[0]
        if labels is not None and self.of_labels:
            images = images[labelled(self.test[1], labels)]
        return images[:SHOWN] / 255

    def distance(self, images: Tensor, labels: Tensor | None = None) -> float:
        """Frechet distance to the test images, or to those of these labels."""
        real = self.test[0]
        if labels is not None:
            real = real[labelled(self.test[1], labels)]
        metric = FrechetDistance(self.judge.features, self.judge.width)
        metric.update(real / 255, real=True)
        metric.update(images, real=False)
        return float(metric.compute())


def labelled(own: Tensor | list[str], labels: Tensor) -> Tensor:
    """Which images have one of the labels. Raises ValueError for images with captions."""
    if not isinstance(own, Tensor):
        raise ValueError("the images of the reference have captions, not labels: of_labels=false")
    return torch.isin(own, labels.cpu())


class PlaneReference(Reference):
    """Energy distance and KL divergence on a grid to exact draws in the plane.

    Args:
        draw: draw(n, generator) -> (n, 2), such as steer.data.checkerboard.
        draws: how many exact ones to compare with.
        extent: the grid covers [-extent, extent]^2.
        bins: of the grid along each axis.
    """

    def __init__(
        self,
        draw: Callable[[int, torch.Generator], Tensor],
        draws: Count = 100_000,
        extent: Positive = 3.0,
        bins: Count = 60,
    ):
        self.draw = draw
        self.extent = extent
        self.bins = bins
        self.real = draw(draws, keyed_generator("real"))

    def __call__(self, x: Tensor, labels: Tensor | None) -> Figures:
        return self.figures(x.flatten(0, 1).cpu())

    def floor(self, n: int, labels: Tensor | None = None) -> Figures:
        return self.figures(self.draw(n, keyed_generator("floor")))

    def figures(self, x: Tensor) -> Figures:
        low = -self.extent
        high = self.extent
        kl = GridKl(cell_frequencies(self.real, self.bins, low, high), low, high)
        kl.update(x)
        first = slice(None, 10_000)  # energy distance takes all pairs
        return {
            "grid_kl": float(kl.compute()),
            "energy_distance": float(energy_distance(x[first], self.real[first])),
        }
