"""Class-conditional networks without a class: the class probabilities are read off the noisy input itself.

The velocity of the unconditional path is the posterior mean of the conditional ones,

    b_t(x) = sum_c p(c | x_t = x) b_t(x | c),

so a conditional network that is given an estimate of p(c | x_s) in place of a label starts near the unconditional law, where a
network that must find the class by itself does not. What a mixture of embeddings leaves out, training mends end to end.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from steer.flow_map import Cond
from steer.networks.conditioning import TimeEmbedding
from steer.networks.unet import ResidualBlock


class NoisyClassifier(nn.Module):
    """Logits of the class of a noisy image x_s (B, C, H, W), given both times of a jump: (B, classes).

    Args:
        image_channels: channels of x.
        classes: number of classes.
        width: channels at half the resolution; twice as many at a quarter of it.
        patch: side of the pixel blocks that become channels before the first convolution.
    """

    def __init__(self, image_channels: int, classes: int, width: int = 32, patch: int = 2):
        super().__init__()
        dim = 4 * width
        self.patch = patch
        self.times = TimeEmbedding(dim)
        self.enter = nn.Conv2d(image_channels * patch**2, width, 3, padding=1)
        self.first = ResidualBlock(width, width, dim)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.second = ResidualBlock(2 * width, 2 * width, dim)
        self.leave = nn.Linear(2 * width, classes)

    def forward(
        self, x: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b classes"]:
        embedding = F.silu(self.times(s, t))
        h = self.first(self.enter(F.pixel_unshuffle(x, self.patch)), embedding)
        h = self.second(self.down(F.silu(h)), embedding)
        return self.leave(F.silu(h).mean((2, 3)))


class InferredClass(nn.Module):
    """u_{s,t}(x) = network(x, s, t, p(c | x)): an unconditional network made of a class-conditional one. Ignores cond.

    Args:
        network: takes class probabilities (B, classes) as its condition, such as a UNet with a ClassCondition.
        classifier: classifier(x, s, t) -> logits (B, classes).
    """

    def __init__(self, network: nn.Module, classifier: nn.Module):
        super().__init__()
        self.network, self.classifier = network, classifier

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.network(x, s, t, self.classifier(x, s, t).softmax(dim=1))


class ByCondition(nn.Module):
    """One network for samples with a class label, another for those without (cond=None, or label -1).

    Args:
        conditional: network(x, s, t, labels).
        unconditional: network(x, s, t).
    """

    def __init__(self, conditional: nn.Module, unconditional: nn.Module):
        super().__init__()
        self.conditional, self.unconditional = conditional, unconditional

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        if cond is None:
            return self.unconditional(x, s, t)
        absent = cond == -1
        if not absent.any():
            return self.conditional(x, s, t, cond)
        if absent.all():
            return self.unconditional(x, s, t)
        with_label = (~absent).nonzero()[:, 0]
        without = absent.nonzero()[:, 0]
        parts = self.conditional(x[with_label], s[with_label], t[with_label], cond[with_label])
        rest = self.unconditional(x[without], s[without], t[without])
        order = torch.cat((with_label, without)).argsort()
        return torch.cat((parts, rest))[order]
