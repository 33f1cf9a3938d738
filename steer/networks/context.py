"""Networks of posterior maps: a plain network that is also told of x_t and t.

What x_t shows of x1 enters beside y_u, as c x_t / h (`steer.lookahead.glass_flow`), which is its
mean for normal data and fades as t -> 0; the time t and the outer condition enter by the network's
own condition. So at t = 0, where y is x1 and x_t says nothing, the inner map is the outer one, and
on the path Linear() the weights of an outer map are a start that is right there: `warm_start`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.flow_map import Cond
from steer.lookahead.glass_flow import Context
from steer.networks.conditioning import Condition, NoCondition, TimeEmbedding

__all__ = ["ContextCondition", "WithContext", "warm_start"]


class WithContext(nn.Module):
    """u_{s,t}(y_u; x_t, t), the network of a ResidualMap on Linear() that is asked with
    cond=Context(x_t, t, schedule, cond).

    Args:
        network: an Mlp or UNet with room `beside` x for as much again, and a ContextCondition.
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


class ContextCondition(Condition):
    """What a context says besides x_t: its own condition, and the time t, whose part starts at
    zero.

    Args:
        dim: size of the result.
        condition: how the context's cond enters; none by default.
    """

    def __init__(self, dim: int, condition: Condition | None = None):
        super().__init__()
        self.condition = condition or NoCondition()
        self.times = TimeEmbedding(dim)
        last = self.times.perceptron[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, cond: Cond, like: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        context = Context.of(cond)
        return self.condition(context.cond, like) + self.times(
            context.t, torch.ones_like(context.t)
        ).to(like)


@torch.no_grad()
def warm_start(network: WithContext, plain: nn.Module) -> None:
    """Gives a network told of a context the weights of a plain one; the inputs it adds start at
    zero.

    Raises:
        ValueError: naming the first weight for which there is no room, since the two differ in more
            than their inputs.
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
                f"warm_start finds no room for {name} of shape {tuple(weight.shape)}; build both alike"
            )
        new.zero_()[tuple(slice(n) for n in weight.shape)] = weight


def _but_inputs(weight: Tensor) -> tuple[int, ...]:
    return (*weight.shape[:1], *weight.shape[2:])
