"""What a look-ahead is worth, for every particle of a batch and without a gradient."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from steer import slope
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
        asked = slope.Asked(run.flow_map, x, t, cond, run.generators[int(prompt[0])])
        view = slope.look(Value(tilt.with_scale(scale), ahead), asked, velocity=False)
        return Seen(view.value, view.reward)

    return sampler.in_batches(part, run, x, tilt.scale_for(len(x)), run.prompt, apart=ahead.random)
