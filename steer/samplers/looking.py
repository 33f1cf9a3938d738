"""What a look-ahead is worth, for every particle of a batch and without a gradient.

A look-ahead that starts from the velocity has computed what the next drift needs: it stays with the
state, through copies
and selections, and is not evaluated a second time.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer import value
from steer.flow_map import Cond, FlowMap
from steer.lookahead import Identity, Lookahead
from steer.samplers.base import Run, Stepwise
from steer.tilt import Value


class Seen(NamedTuple):
    """V_t and the mean reward of the look-ahead's guesses, unscaled, (B,) each; and b_t(x), if the
    look-ahead shares it.
    """

    value: Tensor
    reward: Tensor
    velocity: Tensor | None


class Sighted(NamedTuple):
    """Particles x (B, *shape) and what was seen ahead of them: value and reward, (B,) each, and
    b_t(x) or None.
    """

    x: Tensor
    value: Tensor
    reward: Tensor
    velocity: Tensor | None = None

    def take(self, new: "Sighted", better: Bool[Tensor, "m"], rows: Int[Tensor, "m"]) -> None:
        """Writes the new ones that are better into their rows."""
        for old, fresh in zip(self, new, strict=True):
            if old is not None and fresh is not None:
                old[rows[better]] = fresh[better]


class Landed(Identity):
    """The look-ahead at t = 1, where every map is the identity: it does not move along the flow any
    more.
    """

    def follows(self, flow_map: FlowMap) -> bool:
        return True


def look(
    sampler: Stepwise,
    run: Run,
    x: Float[Tensor, "b *shape"],
    t: float,
    lookahead: Lookahead,
    rows: Int[Tensor, "b"] | None = None,
) -> Seen:
    """The value of each particle's look-ahead at time t; at t = 1, where all have landed, that of
    the particle itself.

    With `rows`, x are those samples of the batch alone.
    """
    tilt = run.tilt
    assert tilt is not None
    ahead = Landed() if t == 1.0 else lookahead
    scale, prompt = tilt.scale_for(len(run.prompt)), run.prompt
    if rows is not None:
        scale, prompt = scale[rows.to(scale.device)], prompt[rows.cpu()]

    def part(x: Tensor, scale: Tensor, prompt: Tensor, cond: Cond) -> Seen:
        asked = value.Asked(run.flow_map, x, t, cond, run.generators[int(prompt[0])])
        view = value.look(
            Value(tilt.with_scale(scale), ahead), asked, velocity=ahead.shares_velocity
        )
        return Seen(view.value, view.reward, view.velocity)

    return sampler.in_batches(part, run, x, scale, prompt, apart=ahead.random, rows=rows)
