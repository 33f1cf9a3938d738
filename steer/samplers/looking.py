"""What a look-ahead is worth, for every particle of a batch and without a gradient."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.lookahead import Identity, Lookahead
from steer.samplers.base import Run, Stepwise
from steer.tilt import Value


class Seen(NamedTuple):
    """V_t and the mean reward of the look-ahead's guesses, unscaled, (B,) each."""

    value: Tensor
    reward: Tensor


class Landed(Identity):
    """The look-ahead at t = 1, where every map is the identity: it does not move along the flow any more."""

    def follows(self, flow_map: FlowMap) -> bool:
        return True


def look(sampler: Stepwise, run: Run, x: Float[Tensor, "b *shape"], t: float, lookahead: Lookahead) -> Seen:
    """The value of each particle's look-ahead at time t; at t = 1, where all have landed, that of the particle itself."""
    tilt = run.tilt
    assert tilt is not None
    ahead = Landed() if t == 1.0 else lookahead

    def part(x: Tensor, scale: Tensor, prompt: Tensor, cond: Cond) -> Seen:
        value = Value(tilt.with_scale(scale), ahead)
        guesses = ahead(run.flow_map, x, t, cond, run.generators[int(prompt[0])])
        rewards = value.rewards(guesses, t, cond)
        return Seen(value.of(rewards, guesses.log_w), mean(rewards, guesses.log_w))

    with torch.no_grad():
        return sampler.in_batches(part, run, x, tilt.scale_for(len(x)), run.prompt, apart=ahead.random)


def mean(rewards: Float[Tensor, "k b"], log_w: Float[Tensor, "k b"]) -> Float[Tensor, "b"]:
    """The mean reward of weighted guesses."""
    return (log_w.exp() * rewards).sum(0).detach()
