"""A multilayer perceptron for distributions in the plane and other low dimensions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.construction import remembered
from steer.flow_map import Cond
from steer.networks.conditioning import ConditionEmbedding, NoCondition, check_width
from steer.networks.shapes import check_vectors

__all__ = ["Mlp"]


@remembered
class Mlp(nn.Module):
    """A multilayer perceptron u_{s,t}(x) of (x / data_std, s, t).

    A perceptron learns high frequencies in x slowly, such as those of a law with sharp edges. With
    `frequencies`, sines and cosines of each coordinate, of periods `period`, `period` / 2, ..., are
    further inputs (Tancik et al. 2020, arXiv 2006.10739).

    Args:
        dim: dimension of x, which is (B, dim).
        width, depth: hidden units and hidden layers.
        condition: the embedding of cond, a ConditionEmbedding of size `width`; none by default.
        data_std: standard deviation of the data, which brings x to unit scale.
        beside: number of further inputs per sample, at unit scale already.
        frequencies: how many sines and cosines of each coordinate.
        period: of the slowest, in units of x / data_std.

    Raises:
        ValueError: a condition of another size.
        WrongShape: when called, if x is not (B, dim).
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 256,
        depth: int = 4,
        condition: ConditionEmbedding | None = None,
        data_std: float = 1.0,
        beside: int = 0,
        frequencies: int = 0,
        period: float = 8.0,
    ):
        super().__init__()
        self.data_std = data_std
        self.frequencies = frequencies
        self.period = period
        self.condition = condition or NoCondition()
        check_width(self.condition, width, "Mlp", "its width")
        self.first = nn.Linear(dim * (1 + 2 * frequencies) + 2 + beside, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, dim)

    def forward(
        self,
        x: Float[Tensor, "b dim"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
        beside: Float[Tensor, "b more"] | None = None,
    ) -> Float[Tensor, "b dim"]:
        check_vectors(x, self.last.out_features, "Mlp")
        with torch.autocast(x.device.type, enabled=False):  # half precision would round the times
            numbers = [x / self.data_std, torch.stack((s, t), dim=1).to(x.dtype)]
            if self.frequencies:
                numbers.append(self.waves(numbers[0]))
            h = self.first(torch.cat(numbers if beside is None else [*numbers, beside], dim=1))
        h = smooth(h + self.condition(cond, like=h))
        for layer in self.hidden:
            h = smooth(layer(h))
        return self.last(h)

    def waves(self, x: Float[Tensor, "b dim"]) -> Float[Tensor, "b waves"]:
        """Compute sines, then cosines, of every coordinate."""
        octaves = 2 ** torch.arange(self.frequencies, dtype=x.dtype, device=x.device)
        angle = (2 * math.pi / self.period * x[:, :, None] * octaves).flatten(1)
        return torch.cat((angle.sin(), angle.cos()), dim=1)


def smooth(h: Tensor) -> Tensor:
    """Apply GELU, which learns edges faster than the smoother SiLU."""
    return nn.functional.gelu(h, approximate="tanh")
