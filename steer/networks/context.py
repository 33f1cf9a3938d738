"""Networks of posterior maps: a network with x_t and t as further inputs.

x_t enters beside y_u, as c x_t / h (`steer.lookahead.glass_flow`), which is the mean of x1 for
normal data and vanishes as t -> 0; the time t and the outer condition enter by the condition of the
network. At t = 0, where y is x1 and x_t is independent of it, the inner map equals the outer one,
so that on the path Linear() the weights of an outer map are a good initialisation: `warm_start`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond
from steer.lookahead.glass_flow import Context
from steer.networks.conditioning import (
    ConditionEmbedding,
    NoCondition,
    TimeEmbedding,
    Tokens,
    check_width,
)

__all__ = ["ContextCondition", "WithContext", "warm_start"]


class WithContext(nn.Module):
    """A network u_{s,t}(y_u; x_t, t) of a ResidualMap on Linear(), with a Context as its condition.

    It is called with cond=Context(x_t, t, schedule, cond).

    Args:
        network: an Mlp or UNet with as many inputs `beside` x as x has, and a ContextCondition.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
    ) -> Float[Tensor, "b *shape"]:
        context = Context.of(cond)
        return self.network(x, s, t, context, beside=context.shown())


class ContextCondition(ConditionEmbedding):
    """The embedding of a context without x_t: its condition, and the time t, initially zero.

    Args:
        dim: size of the result.
        condition: the embedding of the context's cond; none by default.
    """

    def __init__(self, dim: int, condition: ConditionEmbedding | None = None):
        super().__init__()
        self.condition = condition or NoCondition()
        self.dim = dim
        check_width(self.condition, dim, "ContextCondition", "its own dim")
        self.token_width = self.condition.token_width
        self.times = TimeEmbedding(dim)
        last = self.times.perceptron[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        return self.encode(cond, like)[0]

    def encode(
        self, cond: Cond, like: Float[Tensor, "b dim"]
    ) -> tuple[Float[Tensor, "b dim"], Tokens | None]:
        context = Context.of(cond)
        vector, tokens = self.condition.encode(context.cond, like)
        times = self.times(context.t, torch.ones_like(context.t))
        return vector + times.to(like), tokens


@torch.no_grad()
def warm_start(network: WithContext, plain: nn.Module) -> None:
    """Copy the weights of a plain network to one with a context; further inputs start at zero.

    Raises:
        ValueError: the networks differ in more than their inputs; names the first weight that does
            not fit.
    """
    room = network.network.state_dict()
    for name, weight in plain.state_dict().items():
        new = room.get(f"condition.{name}" if name.startswith("condition.") else name)
        if (
            new is None
            or _but_inputs(new) != _but_inputs(weight)
            or new[:1].numel() < weight[:1].numel()
        ):
            raise ValueError(
                f"warm_start cannot copy {name} of shape {tuple(weight.shape)}; build both alike"
            )
        new.zero_()[tuple(slice(n) for n in weight.shape)] = weight


def _but_inputs(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of a weight without its input axis."""
    return (*weight.shape[:1], *weight.shape[2:])
