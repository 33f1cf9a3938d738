"""Unconditional networks built from class-conditional ones, with the class inferred from x_s.

The unconditional velocity is the posterior mean of the conditional ones,

    b_t(x) = sum_c p(c | x_t = x) b_t(x | c),

so a conditional network given an estimate of p(c | x_s) in place of a label starts near the
unconditional law. What a mixture of embeddings leaves out, training corrects end to end.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from steer.conditions import field
from steer.construction import remembered
from steer.flow_map import Cond
from steer.networks.conditioning import ClassCondition, TimeEmbedding, refuse_no_tensor
from steer.networks.shapes import check_images
from steer.networks.unet import ResidualBlock

__all__ = ["ByCondition", "InferredClass", "NoisyClassifier"]


@remembered
class NoisyClassifier(nn.Module):
    """Logits (B, classes) of the class of a noisy image x_s (B, C, H, W), for a jump from s to t.

    Args:
        image_channels: channels of x.
        image_size: (H, W), multiples of 2 * patch.
        classes: number of classes.
        width: channels at 1 / patch of the resolution; twice as many at half of that.
        patch: side of the pixel blocks that become channels before the first convolution.
        dropout: before the last layer.
    """

    def __init__(
        self,
        image_channels: int,
        image_size: Sequence[int],
        classes: int,
        width: int = 32,
        patch: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        height, wide = image_size
        if height % (2 * patch) or wide % (2 * patch):
            raise ValueError(
                f"image_size has sides that are multiples of {2 * patch}; got {tuple(image_size)}"
            )
        dim = 4 * width
        self.image_channels = image_channels
        self.patch = patch
        self.times = TimeEmbedding(dim)
        self.enter = nn.Conv2d(image_channels * patch**2, width, 3, padding=1)
        self.fine = ResidualBlock(width, width, dim)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(ResidualBlock(2 * width, 2 * width, dim) for _ in range(2))
        places = (height // (2 * patch)) * (wide // (2 * patch))
        self.dropout = nn.Dropout(dropout)
        self.leave = nn.Linear(2 * width * places, classes)

    def forward(
        self, x: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b classes"]:
        check_images(x, self.image_channels, 2 * self.patch, "NoisyClassifier")
        embedding = F.silu(self.times(s, t))
        h = self.fine(self.enter(F.pixel_unshuffle(x, self.patch)), embedding)
        h = self.down(F.silu(h))
        for block in self.coarse:
            h = block(h, embedding)
        return self.leave(self.dropout(F.silu(h).flatten(1)))


class InferredClass(nn.Module):
    """An unconditional network u_{s,t}(x) = network(x, s, t, p(c | x_s)). Ignores cond.

    Args:
        network: takes class probabilities (B, classes) for its condition, such as a UNet with a
            ClassCondition.
        classifier: classifier(x, s, t) -> logits (B, classes).

    Raises:
        ValueError: a network of another number of classes than the classifier.
    """

    def __init__(self, network: nn.Module, classifier: nn.Module):
        super().__init__()
        match getattr(network, "condition", None), classifier:
            case ClassCondition(classes=known), NoisyClassifier(leave=last) if (
                known != last.out_features
            ):
                raise ValueError(
                    f"the network has {known} classes and the classifier {last.out_features};"
                    " give both as many"
                )
        self.network = network
        self.classifier = classifier

    def forward(
        self,
        x: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
    ) -> Float[Tensor, "b *shape"]:
        return self.network(x, s, t, self.classifier(x, s, t).softmax(dim=1))


class ByCondition(nn.Module):
    """One network for samples with a class label, another for those without (None, or label -1).

    Args:
        conditional: network(x, s, t, labels).
        unconditional: network(x, s, t).
    """

    def __init__(self, conditional: nn.Module, unconditional: nn.Module):
        super().__init__()
        self.conditional = conditional
        self.unconditional = unconditional

    def forward(
        self,
        x: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
    ) -> Float[Tensor, "b *shape"]:
        cond = field(cond, "labels")
        if cond is None:
            return self.unconditional(x, s, t)
        refuse_no_tensor(cond)
        absent = cond == -1
        if absent.shape != x.shape[:1] or not absent.any():
            return self.conditional(x, s, t, cond)  # which checks its labels
        if absent.all():
            return self.unconditional(x, s, t)
        labelled = (~absent).nonzero()[:, 0]
        others = absent.nonzero()[:, 0]
        u = self.conditional(x[labelled], s[labelled], t[labelled], cond[labelled])
        v = self.unconditional(x[others], s[others], t[others])
        return torch.cat((u, v))[torch.cat((labelled, others)).argsort()]
