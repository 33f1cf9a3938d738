"""Two small classifiers of different architecture for images, one to steer by and one to evaluate.

Optimising a reward ends up exploiting its errors, so a second classifier that evaluates the result
must not share them: one here is convolutional, the other an MLP-Mixer of patches. Both are smooth
(SiLU, averages), since steering uses their gradient, normalise each sample by itself (no batch
statistics), and support forward-mode differentiation.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class ImageEncoder(nn.Module, ABC):
    """A network from images in [0, 1] to features, in which images are compared.

    Attributes:
        width: of the features.
    """

    width: int

    @abstractmethod
    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Compute the features of images, those of Frechet distance and diversity."""


class Classifier(ImageEncoder):
    """A network from images in [0, 1] to class logits: features, then a linear head.

    Attributes:
        head: the linear layer.
        settings: the arguments that build the network again, kept in checkpoints.
    """

    head: nn.Linear

    def __init__(self, **settings: int | float) -> None:
        super().__init__()
        self.settings = settings

    @property
    def width(self) -> int:  # type: ignore[override]
        """The number of features."""
        return self.head.in_features

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Compute the logits from the features."""
        return self.head(self.features(x))

    def normalised(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise pixels to mean 0 and variance 1 over the data."""
        if x.shape[1] != self.settings["channels"]:
            channels = self.settings["channels"]
            raise ValueError(
                f"expected images of {channels} channels, got {x.shape[1]}: convert them"
            )
        return (x - self.settings["mean"]) / self.settings["std"]


class ResidualClassifier(Classifier):
    """A residual network at three resolutions, h + conv(act(norm(conv(act(norm(h)))))).

    Reference: He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027.

    Args:
        classes: number of logits.
        channels: of the images.
        width: channels at the finest resolution, a multiple of 8; twice and four times as many
            below.
        mean, std: of the pixels of the data; Fashion-MNIST's by default.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        width: int = 32,
        mean: float = 0.286,
        std: float = 0.353,
    ) -> None:
        super().__init__(classes=classes, channels=channels, width=width, mean=mean, std=std)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, 2, padding=1),
        )
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, stride=1),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
        )
        self.last = nn.Sequential(nn.GroupNorm(8, 4 * width), nn.SiLU())
        self.head = nn.Linear(4 * width, classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        return self.last(self.blocks(self.stem(self.normalised(x)))).mean((2, 3))


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut; the stride divides the resolution."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.shortcut = (
            nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, stride, bias=False)
        )
        self.branch = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.GroupNorm(8, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
        )

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.shortcut(h) + self.branch(h)


class PatchClassifier(Classifier):
    """An MLP-Mixer: perceptrons across patches and across features in turn.

    Patches of 4 x 4 pixels are embedded by two strided convolutions, which train faster than one.

    References: Tolstikhin et al. 2021, MLP-Mixer: An all-MLP Architecture for Vision,
    arXiv:2105.01601; Xiao et al. 2021, Early Convolutions Help Transformers See Better,
    arXiv:2106.14881.

    Args:
        classes: number of logits.
        channels: of the images.
        size: side of the images in pixels, a multiple of 4.
        width: features per patch.
        depth: number of mixing blocks.
        mean, std: of the pixels of the data; Fashion-MNIST's by default.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
        width: int = 80,
        depth: int = 4,
        mean: float = 0.286,
        std: float = 0.353,
    ) -> None:
        super().__init__(
            classes=classes,
            channels=channels,
            size=size,
            width=width,
            depth=depth,
            mean=mean,
            std=std,
        )
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, 2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 4, 2, padding=1),
        )
        self.blocks = nn.Sequential(*[MixingBlock((size // 4) ** 2, width) for _ in range(depth)])
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        size = self.settings["size"]
        if x.shape[2:] != (size, size):
            raise ValueError(
                f"expected images of {size} x {size} pixels, got {tuple(x.shape[2:])}: resize them"
            )
        patches = self.stem(self.normalised(x)).flatten(2).mT
        return self.last(self.blocks(patches)).mean(1)


class MixingBlock(nn.Module):
    """A perceptron across patches for each feature, then one across features for each patch."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.across_patches = Perceptron(patches, width)
        self.across_features = Perceptron(width, 2 * width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, h: Float[Tensor, "b patches width"]) -> Float[Tensor, "b patches width"]:
        h = h + self.across_patches(self.norms[0](h).mT).mT
        return h + self.across_features(self.norms[1](h))


class Perceptron(nn.Sequential):
    """Two linear layers with a SiLU between them, with `width` inputs and outputs."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
