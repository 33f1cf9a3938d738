"""Interpolants x_t = alpha_t x1 + sigma_t x0 between noise and data, and conversions.

t = 0 is noise, x0 ~ N(0, I); t = 1 is data. A model may predict the velocity v = E[x_t' | x_t], the
clean sample D = E[x1 | x_t], the noise n = E[x0 | x_t] or the score s = grad log p_t. All follow
from the pair (D, n):

    x = alpha D + sigma n,      v = alpha' D + sigma' n,      s = -n / sigma,

so every conversion goes through `Endpoints(clean, noise)`: in by `from_*`, out by `velocity` and
`score`. Solving for the pair divides by alpha sigma' - alpha' sigma, which never vanishes, or by
alpha or sigma, which vanish at one end each. There a prediction does not determine the pair, and
the conversion raises an error instead of dividing. No other file divides by alpha or sigma.

References: Albergo, Boffi & Vanden-Eijnden 2023, arXiv 2303.08797 (interpolants); Song et al. 2021,
arXiv 2011.13456 (variance preserving).
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.construction import call_of

Time = float | Tensor


def batch_time(t: Time, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Expand t to one time per sample, in float32 or better whatever the precision of x.

    Raises:
        ValueError: a tensor of another shape than () or (B,).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    t = torch.as_tensor(t, dtype=dtype, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"a time is a number or has shape ({x.shape[0]},), one per sample; "
            f"got shape {tuple(t.shape)}"
        )
    return t.expand(x.shape[0])


def expand(t: Float[Tensor, "b"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *ones"]:
    """Reshape t (B,) to (B, 1, ..., 1), which broadcasts over x, in the precision of x."""
    return t.to(x.dtype).reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Endpoints(NamedTuple):
    """The posterior means of both ends: clean D = E[x1 | x_t] and noise n = E[x0 | x_t]."""

    clean: Tensor
    noise: Tensor


class Schedule(ABC):
    """The coefficients of an interpolant over time, alpha rising to 1 and sigma falling to 0."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Compute alpha, sigma, alpha', sigma' at t, elementwise and differentiable."""

    @abstractmethod
    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Find the time t at which alpha_t : sigma_t = alpha : sigma, the signal-to-noise ratio.

        It is elementwise, and differentiable up to both ends. Either may be 0 where it is on the
        path. The pair need not lie on this path: two noisy observations of one x1 combine to one of
        another ratio, and a model may be evaluated on another path than it was trained on.
        """

    def __call__(self, t: Time) -> Coefficients:
        return self.coefficients(
            torch.as_tensor(t) if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        )

    def at(self, t: Time, x: Float[Tensor, "b *shape"]) -> Coefficients:
        """Compute coefficients of shape (B, 1, ..., 1), in float32 or better, then cast to x."""
        return Coefficients(*(expand(c, x) for c in self.coefficients(batch_time(t, x))))

    def trained_time(self, t: float) -> float:
        """Find the last time up to t at which a map on this path was trained; t by default."""
        return t

    # --- the path --------------------------------------------------------------------------------
    def interpolate(self, x0: Tensor, x1: Tensor, t: Time) -> Tensor:
        """Compute x_t = alpha x1 + sigma x0."""
        alpha, sigma, _, _ = self.at(t, x1)
        return alpha * x1 + sigma * x0

    def path_velocity(self, x0: Tensor, x1: Tensor, t: Time) -> Tensor:
        """Compute x_t' = alpha' x1 + sigma' x0, whose mean given x_t is the velocity."""
        _, _, d_alpha, d_sigma = self.at(t, x1)
        return d_alpha * x1 + d_sigma * x0

    # --- in: one prediction and x give both endpoints --------------------------------------------
    def from_velocity(self, v: Tensor, x: Tensor, t: Time) -> Endpoints:
        """Convert a velocity to endpoints, never singular.

        D = (sigma' x - sigma v) / w and n = (alpha v - alpha' x) / w, w = alpha sigma' - alpha'
        sigma.
        """
        alpha, sigma, d_alpha, d_sigma = self.at(t, x)
        wronskian = alpha * d_sigma - d_alpha * sigma
        return Endpoints(
            (d_sigma * x - sigma * v) / wronskian, (alpha * v - d_alpha * x) / wronskian
        )

    def from_clean(self, clean: Tensor, x: Tensor, t: Time) -> Endpoints:
        """Convert a clean prediction to endpoints, n = (x - alpha D) / sigma.

        Raises:
            ValueError: at t = 1, where x = D does not determine the noise.
        """
        alpha, sigma, _, _ = self.at(t, x)
        return Endpoints(
            clean,
            (x - alpha * clean) / _nonzero(sigma, "sigma", "t = 1", "noise", "clean prediction"),
        )

    def from_noise(self, noise: Tensor, x: Tensor, t: Time) -> Endpoints:
        """Convert a noise prediction to endpoints, D = (x - sigma n) / alpha.

        Raises:
            ValueError: where alpha = 0 (t = 0): x = n does not determine the clean sample.
        """
        alpha, sigma, _, _ = self.at(t, x)
        return Endpoints(
            (x - sigma * noise)
            / _nonzero(alpha, "alpha", "t = 0", "clean sample", "noise prediction"),
            noise,
        )

    def from_score(self, score: Tensor, x: Tensor, t: Time) -> Endpoints:
        """Convert a score to endpoints, n = -sigma s. Raises ValueError as `from_noise`."""
        return self.from_noise(-self.at(t, x).sigma * score, x, t)

    # --- out -------------------------------------------------------------------------------------
    def velocity(self, endpoints: Endpoints, x: Tensor, t: Time) -> Tensor:
        """Compute the velocity v = alpha' D + sigma' n."""
        _, _, d_alpha, d_sigma = self.at(t, x)
        return d_alpha * endpoints.clean + d_sigma * endpoints.noise

    def score(self, endpoints: Endpoints, x: Tensor, t: Time) -> Tensor:
        """Compute the score s = -n / sigma.

        Raises:
            ValueError: at t = 1, where the data distribution need not have a density.
        """
        sigma = self.at(t, x).sigma
        return -endpoints.noise / _nonzero(sigma, "sigma", "t = 1", "score", "model")

    # --- the coefficient of the score in the velocity --------------------------------------------
    def c_t(self, t: Time) -> Tensor:
        """Compute c_t = sigma^2 alpha'/alpha - sigma sigma', the coefficient of the score in v.

        v = (alpha'/alpha) x + c_t s; infinite where alpha = 0.
        2 c_t is the squared diffusion of the memoryless SDE (Domingo-Enrich et al. 2024, arXiv
        2409.08861).
        """
        alpha, sigma, d_alpha, d_sigma = self(t)
        return sigma**2 * d_alpha / alpha - sigma * d_sigma

    def ancestral(self, s: Time, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the coefficients of a step from s to t > s of the memoryless chain.

        x_t = a D + b n + c e, with D and n the endpoints at x_s and e fresh noise, reverses the
        chain that adds independent noise from data to t = 0 (ancestral sampling: Ho et al. 2020,
        arXiv 2006.11239). Its x_1 is independent of x_0 in the limit of small steps.

        Raises:
            ValueError: s = 1, where no noise is left.
        """
        alpha_s, sigma_s, _, _ = self(s)
        alpha, sigma, _, _ = self(t)
        kept = alpha_s * sigma / (alpha * _nonzero(sigma_s, "sigma", "s = 1", "noise", "sample"))
        return alpha, sigma * kept, sigma * torch.sqrt(1 - kept**2)

    def inside(self, t: Time, margin: float = 1e-3) -> Tensor:
        """Clamp t to [margin, 1 - margin], for products such as c_t grad V, 0 * inf outside.

        Such a product has a finite limit, which changes by O(margin).
        """
        return torch.as_tensor(t).clamp(margin, 1 - margin)

    def __repr__(self) -> str:
        return call_of(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))


def _nonzero(coefficient: Tensor, name: str, where: str, wanted: str, given: str) -> Tensor:
    """Return the coefficient. Raises ValueError where it is 0."""
    if (coefficient == 0).any():
        raise ValueError(
            f"a {given} does not determine the {wanted} at {where}, where {name} = 0; "
            "evaluate at a time inside (0, 1)"
        )
    return coefficient


class Linear(Schedule):
    """The linear path of flow matching and rectified flow: alpha = t, sigma = 1 - t."""

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / (alpha + sigma)


class Trigonometric(Schedule):
    """The trigonometric path, alpha = sin(pi t / 2), sigma = cos(pi t / 2).

    Its variance is constant for data of unit variance. sigma is exactly 0 at t = 1, as the cosine
    of a rounded pi/2 is not.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        half_pi = math.pi / 2
        alpha, sigma = torch.sin(half_pi * t), torch.sin(half_pi * (1 - t))
        return Coefficients(alpha, sigma, half_pi * sigma, -half_pi * alpha)

    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.atan2(alpha, sigma) / (math.pi / 2)


class VariancePreserving(Schedule):
    """The variance-preserving diffusion of linear beta, alpha^2 + sigma^2 = 1, with tau = (1-t)^2.

    In the time tau of the diffusion (noise at 1), log alpha = -tau^2 (beta_max - beta_min)/4 - tau
    beta_min/2. With tau = (1-t)^2, sigma falls linearly to 0 at t = 1 and all derivatives are
    finite; with tau = 1 - t its slope would be infinite there. At t = 0, alpha is small but not
    zero (.0066 by default), and N(0, I) is the distribution up to a KL of alpha_0^2 E|x1|^2 / 2.

    Args:
        beta_min, beta_max: ends of the linear beta schedule, per unit of tau (Song et al. 2021: 0.1
            and 20).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        if not 0 < beta_min <= beta_max:
            raise ValueError(
                f"VariancePreserving needs 0 < beta_min <= beta_max; got {beta_min} and {beta_max}"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def coefficients(self, t: Tensor) -> Coefficients:
        slope = self.beta_max - self.beta_min
        root = 1 - t  # sqrt(tau)
        log_alpha = -(root**4) * slope / 4 - root**2 * self.beta_min / 2
        d_log_alpha = root**3 * slope + root * self.beta_min
        # sigma^2 = 1 - alpha^2 = root^2 g; g = -expm1(2 log alpha)/root^2 stays finite and smooth
        # at root = 0.
        exponent = root**2 * slope / 2 + self.beta_min  # -2 log alpha = root^2 * exponent
        g = exponent * _relative_expm1(root**2 * exponent)
        alpha, sigma = torch.exp(log_alpha), root * torch.sqrt(g)
        d_sigma = -torch.exp(2 * log_alpha) * (root**2 * slope + self.beta_min) / torch.sqrt(g)
        return Coefficients(alpha, sigma, alpha * d_log_alpha, d_sigma)

    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Find the time of a ratio; below that of t = 0 it is negative. alpha must not be 0."""
        q = sigma / alpha
        g = _relative_log1p(q**2)
        half = self.beta_min / 2
        slope = self.beta_max - self.beta_min
        return 1 - q * torch.sqrt(
            g / (half + torch.sqrt(half**2 + slope / 2 * q**2 * g))
        )  # -2 log alpha = q^2 g


def _relative_log1p(y: Tensor) -> Tensor:
    """log(1 + y) / y, continued smoothly to 1 at y = 0."""
    small = y < 1e-6
    safe = torch.where(small, torch.ones_like(y), y)
    return torch.where(small, 1 - y / 2, torch.log1p(safe) / safe)


def _relative_expm1(y: Tensor) -> Tensor:
    """(1 - exp(-y)) / y, continued smoothly to 1 at y = 0."""
    small = y < 1e-6
    safe = torch.where(small, torch.ones_like(y), y)
    return torch.where(small, 1 - y / 2, -torch.expm1(-safe) / safe)
