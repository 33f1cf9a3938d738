"""A perceptron for laws in the plane and other low dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond
from steer.networks.conditioning import Condition, NoCondition


class Mlp(nn.Module):
    """u_{s,t}(x) from the raw numbers (x / data_std, s, t), which is what works best in the plane.

    Args:
        dim: dimension of x.
        width, depth: hidden units and hidden layers.
        condition: how cond enters, a Condition of size `width`; none by default.
        data_std: spread of the data, to bring x to unit scale.
        beside: numbers per sample that are given beside x, at unit scale already.
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 256,
        depth: int = 4,
        condition: Condition | None = None,
        data_std: float = 1.0,
        beside: int = 0,
    ):
        super().__init__()
        self.data_std = data_std
        self.condition = condition or NoCondition()
        self.first = nn.Linear(dim + 2 + beside, width)
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
        numbers = (x / self.data_std, torch.stack((s, t), dim=1).to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):  # half precision would round the times
            h = self.first(torch.cat(numbers if beside is None else (*numbers, beside), dim=1))
        h = nn.functional.silu(h + self.condition(cond, like=h))
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))
        return self.last(h)
