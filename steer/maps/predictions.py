"""What a network may have been trained to predict, and any such network as a flow map.

A prediction is one view of the pair D = E[x1 | x_t], n = E[x0 | x_t] (see steer.interpolant):
`endpoints` reads the pair off a network's output, `output` is its inverse, what a perfect network
would have put out.

A noise prediction says nothing of the clean sample where alpha = 0, a clean one nothing of the
noise where sigma = 0; just inside, the reading multiplies the network's error by 1 / alpha or 1 /
sigma. The velocity and the v of Salimans & Ho tell both, everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from steer import counting
from steer.flow_map import Cond, FlowMap, OdeMap
from steer.interpolant import Endpoints, Schedule, Time, batch_time
from steer.solvers import Heun, Solver

__all__ = [
    "CleanPrediction",
    "NoisePrediction",
    "Predicted",
    "Prediction",
    "SalimansHoPrediction",
    "ScorePrediction",
    "VelocityField",
    "VelocityPrediction",
]


class Prediction(ABC):
    """One view of (D, n). `of_the_ratio` says that it depends on the point of the path only through
    alpha : sigma.
    """

    blind_at_noise: bool = False  # whether it says nothing of D where alpha = 0
    blind_at_data: bool = False  # whether it says nothing of n where sigma = 0
    of_the_ratio: bool = True

    @abstractmethod
    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        """(D, n) from a network's output at x and t. Raises ValueError where it is blind."""

    @abstractmethod
    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        """The output whose endpoints these are."""

    def seen(self, schedule: Schedule, margin: float) -> tuple[float, float]:
        """The first and last time at which both endpoints are told, `margin` inside an end where
        one is not.
        """
        first = margin if self.blind_at_noise and float(schedule(0.0).alpha) == 0 else 0.0
        return first, 1 - margin if self.blind_at_data else 1.0


class VelocityPrediction(Prediction):
    """v = alpha' D + sigma' n: flow matching, rectified flow."""

    of_the_ratio = False

    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        return schedule.from_velocity(output, x, t)

    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        return schedule.velocity(endpoints, x, t)


class CleanPrediction(Prediction):
    """D, the clean sample ("x-prediction", "sample" in diffusers)."""

    blind_at_data = True

    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        return schedule.from_clean(output, x, t)

    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        return endpoints.clean


class NoisePrediction(Prediction):
    """n, the noise ("eps-prediction"): Ho, Jain & Abbeel 2020, arXiv 2006.11239."""

    blind_at_noise = True

    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        return schedule.from_noise(output, x, t)

    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        return endpoints.noise


class ScorePrediction(Prediction):
    """s = grad log p_t(x) = -n / sigma; `output` raises ValueError at t = 1, where it need not
    exist.
    """

    blind_at_noise = True
    of_the_ratio = False

    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        return schedule.from_score(output, x, t)

    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        return schedule.score(endpoints, x, t)


class SalimansHoPrediction(Prediction):
    """v = (alpha n - sigma D) / |(alpha, sigma)|: the "v-prediction" of diffusion models, which is
    not the velocity.

    Their alpha^2 + sigma^2 is 1; the division makes v the same on every path. On Trigonometric, the
    velocity is -(pi / 2) v. Reference: Salimans & Ho 2022, arXiv 2202.00512.
    """

    def endpoints(self, output: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Endpoints:
        cos, sin, y = _circle(x, t, schedule)
        return Endpoints(cos * y - sin * output, sin * y + cos * output)

    def output(self, endpoints: Endpoints, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
        cos, sin, _ = _circle(x, t, schedule)
        return cos * endpoints.noise - sin * endpoints.clean


def _circle(x: Tensor, t: Time, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and x divided by |(alpha, sigma)|: the same point on the path with alpha^2 +
    sigma^2 = 1.
    """
    alpha, sigma, _, _ = schedule.at(t, x)
    size = torch.hypot(alpha, sigma)
    return alpha / size, sigma / size, x / size


class VelocityField(FlowMap, ABC):
    """A model that knows its velocity alone: a jump is an ODE, of `steps` times the solver's stages
    evaluations.

    Args:
        schedule: the path.
        steps, solver: of every jump, long or short; Heun() by default. See OdeMap.
    """

    def __init__(self, schedule: Schedule, steps: int = 16, solver: Solver | None = None):
        super().__init__()
        if steps < 1:
            raise ValueError(
                f"{type(self).__name__} needs at least one step for its jumps; got steps={steps}"
            )
        self.schedule = schedule
        self.steps = steps
        self.solver = solver or Heun()

    def forward(
        self, x: Float[Tensor, "b *shape"], s: Time, t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return OdeMap(self, self.schedule, self.steps, self.solver)(x, s, t, cond)


class Predicted(VelocityField):
    """A network that predicts any of these, as a velocity field. Exact; but at an end where its
    prediction is blind the velocity is that of the same x at `margin` from it, of error O(margin)
    (held in the tests).

    The margin is a compromise: at the noise end the network's own error reaches the velocity
    multiplied by 1 / margin.
    Keep x in float32 or better; half precision belongs inside the network.

    Args:
        network: network(x, t, cond) -> (B, *shape), with t of shape (B,) on our clock, 0 noise and
            1 data.
        prediction: what it was trained to predict.
        schedule: the path it was trained on; to ask it on another, wrap this in steer.Rescheduled.
        margin: how far from a blind end the network is asked.
        steps, solver: how a jump is made.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Cond], Tensor],
        prediction: Prediction,
        schedule: Schedule,
        margin: float = 1e-3,
        steps: int = 16,
        solver: Solver | None = None,
    ):
        super().__init__(schedule, steps, solver)
        if not 0 < margin < 0.5:
            raise ValueError(
                f"the margin is a time in (0, 0.5) to keep from a blind end; got {margin}, try 1e-3"
            )
        self.network = network
        self.prediction = prediction
        self.seen = prediction.seen(schedule, margin)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        t = batch_time(t, x).clamp(*self.seen)
        output = counting.network(self.network(x, t, cond))
        return self.schedule.velocity(self.prediction.endpoints(output, x, t, self.schedule), x, t)
