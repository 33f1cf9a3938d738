"""Networks trained elsewhere, in their own variables, as velocity fields on our paths.

Other conventions run from data to noise, scale x differently and name the noise level differently;
all of them see only the ratio sigma : alpha of signal and noise. So each class here takes (x, t) on
any of our paths to the place where the network was trained, asks it once, and reads D = E[x1 | x_t]
and n = E[x0 | x_t] off the answer. x1 is in the units the network was trained in, of standard
deviation sigma_data, and x0 ~ N(0, I).

For networks with our time and scale, see steer.maps.predictions; for another path afterwards,
steer.Rescheduled.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer import counting
from steer.flow_map import Cond
from steer.interpolant import Coefficients, Endpoints, Schedule, Time, batch_time, expand
from steer.maps.predictions import NoisePrediction, Prediction, VelocityField
from steer.solvers import Solver

__all__ = ["Ddpm", "Edm", "TrigFlow", "TrigFlowJump"]

Network = Callable[[Tensor, Tensor, Cond], Tensor]


class Circular(VelocityField):
    """Networks of y = x_t / N, N^2 = sigma_data^2 alpha^2 + sigma^2 the variance of x_t for
    uncorrelated data. In the angle

        cos = sigma_data alpha / N,   sin = sigma / N:   y = cos D / sigma_data + sin n,   f = -sin D / sigma_data + cos n,

    f the derivative of y in the angle, so D = sigma_data (cos y - sin f) and n = sin y + cos f,
    regular at both ends.
    """

    def __init__(
        self,
        network: Network,
        sigma_data: float,
        schedule: Schedule,
        steps: int = 16,
        solver: Solver | None = None,
    ):
        super().__init__(schedule, steps, solver)
        self.network = network
        self.sigma_data = _positive(sigma_data)

    @abstractmethod
    def turning(self, y: Tensor, at: Coefficients, cond: Cond) -> Tensor:
        """f at y, by one call of the network; `at` holds alpha and sigma, each (B,)."""

    def endpoints(self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None) -> Endpoints:
        at = self.schedule.coefficients(batch_time(t, x))
        cos, sin, y = _on_circle(x, at, self.sigma_data)
        f = counting.network(self.turning(y, at, cond))
        return Endpoints(self.sigma_data * (cos * y - sin * f), sin * y + cos * f)

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        return self.schedule.velocity(self.endpoints(x, t, cond), x, t)


class Edm(Circular):
    """D(z; sig) = c_skip z + c_out F(c_in z, c_noise) of noisy z = x1 + sig x0, so z = x_t / alpha
    and sig = sigma / alpha.

    c_skip = sigma_data^2 / (sig^2 + sigma_data^2), c_out = sig sigma_data / sqrt(sig^2 +
    sigma_data^2), c_in = 1 / sqrt(sig^2 + sigma_data^2), c_noise = log(sig) / 4; here c_in z = y
    and F = -f.

    Exact for sig in [sigma_min, sigma_max]. Beyond, where the network was never trained, it is told
    the nearest of the two: off by O(1 / sigma_max) at t = 0 and O(sigma_min) at t = 1. Reference:
    Karras et al. 2022, arXiv 2206.00364.

    Args:
        network: the raw F, network(c_in z, c_noise, cond) with c_noise of shape (B,); not the
            preconditioned D.
        sigma_data: standard deviation of the data the network was trained on (0.5 in the paper).
        schedule: the path to ask it on.
        sigma_min, sigma_max: the noise levels it was trained on.
        steps, solver: how a jump is made.
    """

    def __init__(
        self,
        network: Network,
        sigma_data: float,
        schedule: Schedule,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        steps: int = 16,
        solver: Solver | None = None,
    ):
        super().__init__(network, sigma_data, schedule, steps, solver)
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"Edm needs noise levels 0 < sigma_min < sigma_max; got {sigma_min} and {sigma_max}"
            )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def turning(self, y: Tensor, at: Coefficients, cond: Cond) -> Tensor:
        sig = torch.maximum(at.sigma, at.alpha * self.sigma_min) / torch.maximum(
            at.alpha, at.sigma / self.sigma_max
        )
        return -self.network(y, sig.log() / 4, cond)


class TrigFlow(Circular):
    """dz/dtheta = sigma_data F(z / sigma_data, theta) for z = cos(theta) x1 + sin(theta) sigma_data
    x0: F = f.

    Exact at every t: theta = atan2(sigma, sigma_data alpha) runs from pi/2 (noise) to 0 (data). A
    network trained as a
    consistency model is not a velocity field; give ConsistencyMap its TrigFlowJump.

    Reference: Lu & Song 2024, arXiv 2410.11081.

    Args:
        network: F, network(z / sigma_data, theta, cond) with theta of shape (B,).
        sigma_data: standard deviation of the data the network was trained on.
        schedule: the path to ask it on; Trigonometric() with sigma_data = 1 is its own.
        steps, solver: how a jump is made.
    """

    def turning(self, y: Tensor, at: Coefficients, cond: Cond) -> Tensor:
        return self.network(y, torch.atan2(at.sigma, self.sigma_data * at.alpha), cond)


class TrigFlowJump(nn.Module):
    """The consistency function f(z, theta) = cos(theta) z - sin(theta) sigma_data F(z / sigma_data,
    theta) = X_{t,1}(x).

    For steer.ConsistencyMap(TrigFlowJump(network, sigma_data, schedule), schedule); it counts the
    call. Arguments as in TrigFlow.
    """

    def __init__(self, network: Network, sigma_data: float, schedule: Schedule):
        super().__init__()
        self.network = network
        self.sigma_data = _positive(sigma_data)
        self.schedule = schedule

    def forward(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        at = self.schedule.coefficients(batch_time(t, x))
        cos, sin, y = _on_circle(x, at, self.sigma_data)
        theta = torch.atan2(at.sigma, self.sigma_data * at.alpha)
        return self.sigma_data * (cos * y - sin * self.network(y, theta, cond))


class Ddpm(VelocityField):
    """A network of discrete steps i = 0 (clean) .. T-1 (noise), z_i = sqrt(abar_i) x1 + sqrt(1 -
    abar_i) x0.

    x_t is divided by |(alpha, sigma)|, and the step is the fractional one at which the angle
    atan2(sigma, alpha), interpolated linearly between the steps, is that of t. Exact at the steps'
    own angles; between them as good as the network's own understanding of fractions of a step
    (sinusoidal embeddings have one). Outside the table's angles the velocity is that of the same x
    at the table's nearest end: off by O(sqrt(abar_{T-1})) at t = 0 and by O(sqrt(1 - abar_0)) at t
    = 1.

    Reference: Ho, Jain & Abbeel 2020, arXiv 2006.11239; the path between the steps, Song et al.
    2020, arXiv 2010.02502.

    Args:
        network: network(z, steps, cond) with fractional steps of shape (B,).
        alphas_cumprod: abar_0 > ... > abar_{T-1}, in (0, 1); the last may be 0 ("zero terminal
            SNR") unless the network predicts the noise.
        schedule: the path to ask it on.
        prediction: NoisePrediction() by default; CleanPrediction() or SalimansHoPrediction() for
            networks of those.
        steps, solver: how a jump is made.
    """

    def __init__(
        self,
        network: Network,
        alphas_cumprod: Sequence[float] | Tensor,
        schedule: Schedule,
        prediction: Prediction | None = None,
        steps: int = 16,
        solver: Solver | None = None,
    ):
        super().__init__(schedule, steps, solver)
        abar = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        self.network = network
        self.prediction = prediction or NoisePrediction()
        self._check(abar)
        self.angles = torch.atan2(
            (1 - abar).sqrt(), abar.sqrt()
        )  # no buffer, which half precision would round
        noisy, clean = (
            float(schedule.time_at(a.sqrt(), (1 - a).sqrt())) if a > 0 else 0.0
            for a in abar[[-1, 0]]
        )
        self.seen = max(noisy, 0.0), clean

    def _check(self, abar: Tensor) -> None:
        if (
            abar.ndim != 1
            or len(abar) < 2
            or not (abar.diff() < 0).all()
            or not (0 <= abar[-1] < abar[0] < 1)
        ):
            raise ValueError(
                "alphas_cumprod is a falling list of at least two numbers in (0, 1), from clean to noise"
            )
        if not self.prediction.of_the_ratio:
            raise ValueError(
                f"{type(self.prediction).__name__} depends on the path, and steps have none of ours; use NoisePrediction()"
            )
        if abar[-1] == 0 and self.prediction.blind_at_noise:
            raise ValueError(
                "the last of alphas_cumprod is 0, where a noise prediction tells nothing; drop it, or predict v or clean"
            )

    def velocity(
        self, x: Float[Tensor, "b *shape"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b *shape"]:
        t = batch_time(t, x).clamp(*self.seen)
        alpha, sigma, _, _ = self.schedule.coefficients(t)
        z = x / expand(torch.hypot(alpha, sigma), x)
        step = self.step(torch.atan2(sigma, alpha))
        output = counting.network(self.network(z, step, cond))
        return self.schedule.velocity(self.prediction.endpoints(output, x, t, self.schedule), x, t)

    def step(self, angle: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The fractional step of an angle, 0 (data) .. T-1 (noise), linear between the table's
        angles.
        """
        angles = self.angles.to(angle)
        i = torch.searchsorted(angles, angle.detach()).clamp(1, len(angles) - 1)
        return (i - 1 + (angle - angles[i - 1]) / (angles[i] - angles[i - 1])).clamp(
            0, len(angles) - 1
        )


def _on_circle(x: Tensor, at: Coefficients, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """cos, sin and y of Circular, shaped to multiply x."""
    cos = sigma_data * at.alpha
    size = torch.hypot(sigma_data * at.alpha, at.sigma)
    return expand(cos / size, x), expand(at.sigma / size, x), x / expand(size, x)


def _positive(sigma_data: float) -> float:
    if not sigma_data > 0:
        raise ValueError(
            f"sigma_data is the standard deviation of the data, above 0; got {sigma_data}"
        )
    return sigma_data
