"""ConsistencyMap: a model that knows where any noisy point lands and nothing in between.

    f(x, t) = X_{t,1}(x),      f(x, 1) = x.

One call draws a sample; more calls improve it by jumping to the data and adding fresh noise, x_t =
alpha f + sigma e.

Reference: Song, Dhariwal, Chen & Sutskever 2023, arXiv 2303.01469.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from steer import counting
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Schedule, Time, batch_time

__all__ = ["ConsistencyMap"]


class ConsistencyMap(FlowMap):
    """Jumps to t = 1 alone: `lookahead` and steer.samplers.Jump(renoise=True) work, other target
    times raise.

    A consistency network has no velocity (its output is an end point, not the posterior mean).
    Given the model it was distilled from, velocity, denoiser and score are that model's, and every
    look-ahead and sampler works that asks for no other jump.

    Args:
        network: network(x, t, cond) -> (B, *shape), the end point f, with t of shape (B,), 0 noise
            and 1 data; its own affair that f(x, 1) = x. For networks of TrigFlow see
            steer.maps.conventions.TrigFlowJump.
        schedule: the path it was trained on.
        velocity: a FlowMap on the same path that gives the velocity, if there is one.

    Raises:
        ValueError: a velocity on another path; later, a jump to t < 1, or a question that needs the
            missing velocity.
    """

    jumps_follow_velocity = True

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Cond], Tensor],
        schedule: Schedule,
        velocity: FlowMap | None = None,
    ):
        super().__init__()
        if velocity is not None and velocity.schedule != schedule:
            raise ValueError(
                f"the jumps run on {schedule}, the velocity on {velocity.schedule}; pass steer.Rescheduled(velocity, schedule)"
            )
        self.network = network
        self.schedule = schedule
        self.field = velocity
        self.guidance = 1.0 if velocity is None else velocity.guidance

    @property
    def score_matches_flow(self) -> bool:
        return self.field is None or self.field.score_matches_flow

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        s, t = batch_time(s, x), batch_time(t, x)
        if (t != 1).any():
            raise ValueError(
                f"a consistency map jumps to the data, t = 1, only; got t = {float(t[t != 1][0].detach()):.4g}. Sample with "
                "steer.samplers.Jump(renoise=True), or give its velocity to steer.OdeMap"
            )
        return counting.network(self.network(x, s, cond))

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        if self.field is None:
            raise ValueError(
                "a consistency network has no velocity, hence no denoiser or score; sample with "
                "steer.samplers.Jump(renoise=True), or pass ConsistencyMap(..., velocity=the model it was distilled from)"
            )
        return self.field.velocity(x, t, cond)
