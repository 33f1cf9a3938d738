"""Real models as flow maps on latents, by what their transformer predicts.

- two times: u_{s,t}, so that any jump is one evaluation (`TwoTimeBackbone`);
- consistency: the end point X_{s,1}, so that the jump to data is one (`ConsistencyBackbone`);
- trajectory: the pair of data and noise at s, by which it jumps to any later time
  (`TrajectoryBackbone`);
- velocity: b_s alone, so that jumps are made of Euler steps (`VelocityBackbone`).
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer import counting
from steer.adapters.network import Network
from steer.annotations import Count
from steer.conditions import Cond, Condition
from steer.flow_map import FlowMap, ResidualMap
from steer.interpolant import Endpoints, Time, batch_time, expand

__all__ = [
    "Backbone",
    "ConsistencyBackbone",
    "TrajectoryBackbone",
    "TwoTimeBackbone",
    "VelocityBackbone",
    "backbone_of",
]


class JumpOfSteps(UserWarning):
    """A jump asked of a model of velocities."""


class Backbone(ResidualMap):
    """A real model as a flow map on latents, with its decoder and its way to encode prompts.

    A condition is a list of texts or a `steer.Condition`, see `Network`. Samples are in float32 or
    better, whatever the precision of the transformer.

    Args:
        network: the model's own, one of the families of `steer.adapters`.

    Attributes:
        shape: of one sample, where the size of its images is known.
    """

    network: Network

    def __init__(self, network: Network):
        super().__init__(network, network.schedule, network.weight)
        self.shape: tuple[int, ...] | None = None

    @property
    def level(self) -> str:
        """What the transformer predicts: "two times", "consistency", "trajectory" or "velocity"."""
        return self.network.level

    @property
    def shift(self) -> float:
        """The shift of the library's steps towards noise, for `steer.samplers.shifted`."""
        return self.network.shift

    def decode(self, latents: Float[Tensor, "b *shape"]) -> Tensor:
        """Decodes samples to images (B, 3, H, W) about [0, 1]; see `Network.decode`."""
        return self.network.decode(latents)

    def encode_prompts(self, texts: Sequence[str]) -> Condition:
        """Encodes prompts. Raises ValueError without text encoders."""
        return self.network.encode_prompts([texts] if isinstance(texts, str) else texts)

    def latent_shape(self, height: int, width: int, **film: int) -> tuple[int, ...]:
        """Computes the shape of one sample, for an image of that size in pixels.

        Args:
            height, width: of the image.
            film: frames=..., for a model of films.
        """
        return self.network.latent_shape(height, width, **film)

    def evaluate(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        """Calls the network once, counted."""
        return counting.network(self.network(x, batch_time(s, x), batch_time(t, x), cond))

    def extra_repr(self) -> str:
        return f"{self.network.name}, {self.level}"


class TwoTimeBackbone(Backbone):
    """A model distilled into a flow map: every jump is one evaluation, and so is the velocity."""

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.evaluate(x, s, t, cond)


class VelocityBackbone(Backbone):
    """A model of the velocity, whose jumps are Euler steps: one by default, x + (t - s) b_s(x).

    That one step to t = 1 is the posterior mean, so that `MapJump` is `Denoiser` here. The first
    jump says so.

    Args:
        network: the model's own.
        jump_steps: Euler steps of each jump, one evaluation each.
    """

    jumps_follow_velocity = False

    def __init__(self, network: Network, jump_steps: Count = 1):
        super().__init__(network)
        self.jump_steps = jump_steps

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.evaluate(x, t, t, cond)

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        if (s == t).all():
            return self.velocity(x, t, cond)
        self.say()
        if self.jump_steps == 1:
            return self.velocity(x, s, cond)
        return FlowMap.average_velocity(self, x, s, t, cond)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        self.say()
        s, t = batch_time(s, x), batch_time(t, x)
        h = (t - s) / self.jump_steps
        for k in range(self.jump_steps):
            x = x + expand(h, x) * self.velocity(x, s + k * h, cond)
        return x

    def say(self) -> None:
        """Warns of what a jump is and costs; Python shows each warning once."""
        n = self.jump_steps
        steps, cost = ("one Euler step", "1 evaluation") if n == 1 else (
            f"{n} Euler steps", f"{n} evaluations"
        )  # fmt: skip
        ahead = "; to t = 1 that is the look-ahead Denoiser()" if n == 1 else ""
        warnings.warn(
            f"{self.network.name} predicts velocities alone, and was asked for a jump: {steps} for"
            f" each instead, {cost}{ahead}; for others, set jump_steps, or use ShortOde()",
            JumpOfSteps,
            stacklevel=2,
        )


class ConsistencyBackbone(Backbone):
    """A consistency model: the jump to data is one evaluation, and there is no other jump.

    Sample with `steer.samplers.Jump(steps, renoise=True)`.

    Raises:
        ValueError: when called, a jump to t < 1, or a velocity, denoiser or score.
    """

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        if (t != 1).any():
            other = float(t[t != 1][0].detach())
            raise ValueError(
                f"{self.network.name} is a consistency model, which jumps to the data, t = 1, only;"
                f" got t = {other:.4g}: sample by steer.samplers.Jump(renoise=True)"
            )
        return torch.where(expand(s, x) == 1, x, self.evaluate(x, s, t, cond))

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        if (s == t).any():
            return self.velocity(x, t, cond)
        return (self(x, s, t, cond) - x) / expand(t - s, x)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        raise ValueError(
            f"{self.network.name} is a consistency model: it has no velocity, hence no denoiser or"
            " score; sample by steer.samplers.Jump(renoise=True), look ahead by MapJump()"
        )


class TrajectoryBackbone(Backbone):
    """A model of the pair (D, n) that makes up x_s, by which x_t = alpha_t D + sigma_t n at any t.

    A jump is one evaluation. Its jumps are no flow of its velocity, since the pair does not depend
    on t.
    """

    jumps_follow_velocity = False

    def endpoints(self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None) -> Endpoints:
        clean, noise = self.network(x, *(batch_time(t, x),) * 2, cond).chunk(2, dim=1)
        return Endpoints(counting.network(clean), noise)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.schedule.velocity(self.endpoints(x, t, cond), x, t)

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        clean, noise = self.endpoints(x, s, cond)
        end, start = (self.schedule.interpolate(noise, clean, time) for time in (t, s))
        return x + (end - start)

    def average_velocity(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return FlowMap.average_velocity(self, x, s, t, cond)


def backbone_of(network: Network, jump_steps: Count | None = None) -> Backbone:
    """Builds the flow map of a network, by its level.

    Args:
        network: the model's own.
        jump_steps: Euler steps of each jump, for a model of velocities.

    Raises:
        ValueError: jump_steps for a model that jumps in one evaluation.
    """
    if network.level == "velocity":
        return VelocityBackbone(network, jump_steps or 1)
    if jump_steps is not None:
        raise ValueError(
            f"{network.name} jumps in one evaluation; got jump_steps={jump_steps}: leave it out"
        )
    kinds: dict[str, type[Backbone]] = {
        "two times": TwoTimeBackbone,
        "consistency": ConsistencyBackbone,
        "trajectory": TrajectoryBackbone,
    }
    return kinds[network.level](network)
