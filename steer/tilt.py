"""What is wanted, and what that says of a noisy sample: Tilt and Value.

    p*(x) ~ p_1(x) exp(scale r(x)),        V_t(x) = log E[exp(scale r(X_1)) | x_t = x].

`Tilt` is the only place where temperature exists. `Value` asks a look-ahead where x_t will land and averages the tilt
there: exact with draws from the posterior, an approximation with a single guess.
"""

import inspect
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer import counting
from steer.flow_map import Cond, FlowMap
from steer.interpolant import Time
from steer.lookahead import Lookahead

RewardFunction = Callable[..., Tensor]


class NonFiniteReward(ValueError):
    """A reward, or its gradient, was NaN or infinite. The message names the sample and the time."""


class Tilt(nn.Module):
    """scale * r(x), checked: finite, and one number per sample.

    Args:
        reward: r(x) or r(x, cond) -> (B,), higher is better. A module that says `differentiable = False` is believed.
        scale: inverse temperature; a number, or one per prompt. Zero leaves the law as it is, negative prefers low.
    """

    scale: Tensor

    def __init__(self, reward: RewardFunction, scale: float | Tensor = 1.0):
        super().__init__()
        self.reward = reward
        self.takes_cond = _accepts_two(reward)
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        if not self.scale.isfinite().all():
            raise ValueError(f"a tilt's scale is a finite number; got {scale}")

    @property
    def differentiable(self) -> bool:
        """Whether gradient methods may ask; plain functions are taken to be until their result has no gradient."""
        return bool(getattr(self.reward, "differentiable", True))

    def rewards(self, x: Float[Tensor, "b *shape"], cond: Cond = None, t: Time | None = None) -> Float[Tensor, "b"]:
        """r(x), unscaled. Raises NonFiniteReward naming the sample (and the time, if given), ValueError on the shape."""
        r = self.reward(x, cond) if self.takes_cond else self.reward(x)
        if not isinstance(r, Tensor) or r.shape != x.shape[:1]:
            got = tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__
            raise ValueError(f"a reward gives one number per sample, shape ({len(x)},); {name_of(self.reward)} gave {got}")
        check_finite(r, name_of(self.reward), t)
        return counting.reward(r)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None, t: Time | None = None) -> Float[Tensor, "b"]:
        r = self.rewards(x, cond, t)
        return self.scale_for(len(r)).to(r.dtype) * r

    def scale_for(self, samples: int) -> Float[Tensor, "b"]:
        """The scale of each of `samples` particles, grouped by prompt, prompts in order."""
        if self.scale.ndim == 0:
            return self.scale.expand(samples)
        if samples % len(self.scale):
            raise ValueError(f"the tilt has {len(self.scale)} scales, one per prompt; {samples} samples do not divide by it")
        return self.scale.repeat_interleave(samples // len(self.scale))

    def with_scale(self, scale: float | Tensor) -> "Tilt":
        """The same reward at another scale."""
        return Tilt(self.reward, scale)


class Value(nn.Module):
    """V_t(x) = log sum_k w_k exp(tilt(z_k)) over the look-ahead's guesses (z_k, w_k); differentiable in x and t.

    Args:
        tilt: the reward and its scale.
        lookahead: where x_t will land.
    """

    def __init__(self, tilt: Tilt, lookahead: Lookahead):
        super().__init__()
        self.tilt, self.lookahead = tilt, lookahead

    def forward(
        self,
        flow_map: FlowMap,
        x: Float[Tensor, "b *shape"],
        t: Time,
        cond: Cond = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b"]:
        guesses = self.lookahead(flow_map, x, t, cond, generator)
        return self.of(guesses.x1, guesses.log_w, t, cond)

    def of(
        self, x1: Float[Tensor, "k b *shape"], log_w: Float[Tensor, "k b"], t: Time, cond: Cond = None
    ) -> Float[Tensor, "b"]:
        """The value of guesses already made."""
        if len(x1) == 1:
            return self.tilt(x1[0], cond, t) + log_w[0]
        return torch.logsumexp(torch.stack([self.tilt(z, cond, t) for z in x1]) + log_w, dim=0)


def check_finite(values: Tensor, what: str, t: Time | None = None) -> None:
    """Raises NonFiniteReward naming the first sample of `values` (B, ...) that is NaN or infinite, and its time."""
    finite = values.detach().isfinite().flatten(1).all(1) if values.ndim > 1 else values.detach().isfinite()
    if finite.all():
        return
    i = int((~finite).nonzero()[0, 0])
    when = "" if t is None else f" at t = {float(torch.as_tensor(t).expand(len(values))[i]):.4g}"
    value = values.detach()[i]
    shown = f"{float(value):g}" if value.ndim == 0 else "not finite"
    raise NonFiniteReward(f"{what} is {shown} for sample {i}{when}; mend the reward there, or clip it (rewards.Clipped)")


def name_of(reward: RewardFunction) -> str:
    """What to call a reward in a message."""
    return getattr(reward, "__name__", None) or type(reward).__name__


def no_gradient(reward: RewardFunction, instead: str) -> str:
    """The message of a gradient method that was given a reward without one."""
    why = getattr(reward, "why_not_differentiable", "it says differentiable = False")
    return f"{name_of(reward)} has no gradient ({why}); use {instead}, which needs none"


def _accepts_two(reward: RewardFunction) -> bool:
    function = reward.forward if isinstance(reward, nn.Module) else reward
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return False
    return True
