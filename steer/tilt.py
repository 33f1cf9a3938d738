"""The tilt of a reward: its scale, and checks of what the reward returns.

    p*(x) ~ p_1(x) exp(scale r(x)),        V_t(x) = log E[exp(scale r(X_1)) | x_t = x].

`Tilt` is the only place where temperature exists. `Value` asks a look-ahead where x_t will land and
averages the tilt there: exact with draws from the posterior, an approximation with a single guess.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer import counting
from steer.conditions import Cond, check, condition_argument, given_to, name_of, same, to
from steer.interpolant import Time

RewardFunction = Callable[..., Tensor]
FIX = (
    "fix the reward at that sample, clip it (rewards.Clipped), or reject NaN with"
    " Tilt(..., on_nonfinite='reject')"
)
NO_HARD_GRADIENT = (
    "a hard constraint has no gradient: use UnguidedTilting, FkSteering, BeamSearch, Svdd or"
    " BestOfN"
)
DIVERGED = "the samples diverge, not the reward: take more steps, or a smaller scale or strength"


class NonFiniteReward(ValueError):
    """A reward, or its gradient, is NaN or infinite at one sample of the batch."""

    def __init__(self, problem: str, sample: int, t: float | None = None, advice: str = FIX):
        when = "" if t is None else f" at t = {t:.4g}"
        super().__init__(f"{problem} for sample {sample}{when}; {advice}")
        self.problem = problem
        self.sample = sample
        self.t = t
        self.advice = advice
        self.x: Tensor | None = None  # the sample, where it is known

    def further(self, samples: int) -> "NonFiniteReward":
        """The same, of a batch that has this many more samples in front."""
        return NonFiniteReward(self.problem, self.sample + samples, self.t, self.advice)


class Tilt(nn.Module):
    """scale * r(x) in float64, one checked number per sample: finite, or -inf for a constraint.

    A reward of -inf is a hard constraint: such samples have weight zero. Methods that weigh, search
    or select accept it; those that follow its gradient refuse it.

    Args:
        reward: r(x) or r(x, cond) -> (B,), higher is better. A module may declare `differentiable =
            False`.
        scale: inverse temperature; a number, or one per prompt. Zero leaves the law unchanged, a
            negative scale prefers low rewards.
        on_nonfinite: treatment of NaN: "raise" stops with the sample's index and the time, "reject"
            takes it for -inf.
        prompts: the condition that each of several scales belongs to: labels (P,), embeddings (P,
            E) or P texts. Scales are then matched by the condition of a sample, in any order;
            without, by position in the batch: prompts in order, the particles of a prompt side by
            side.
    """

    scale: Tensor
    prompts: Cond

    def __init__(
        self,
        reward: RewardFunction,
        scale: float | Tensor = 1.0,
        prompts: Cond = None,
        on_nonfinite: Literal["raise", "reject"] = "raise",
    ):
        super().__init__()
        if on_nonfinite not in ("raise", "reject"):
            raise ValueError(f"on_nonfinite is 'raise' or 'reject'; got {on_nonfinite!r}")
        if isinstance(reward, type):
            name = reward.__name__
            raise ValueError(f"expected a reward, got the class {name}: build one, {name}(...)")
        if not callable(reward):
            raise ValueError(f"expected a reward or a function of (x), got {reward!r}")
        self.reward = reward
        self.on_nonfinite = on_nonfinite
        self.cond_argument = condition_argument(reward)
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        if self.scale.ndim > 1 or not self.scale.isfinite().all():
            raise ValueError(f"a tilt's scale is a finite number, or one per prompt; got {scale}")
        if isinstance(prompts, Tensor):
            self.register_buffer("prompts", prompts, persistent=False)
        else:
            self.prompts = prompts
        if prompts is not None:
            self._check_prompts()

    @property
    def differentiable(self) -> bool:
        """Whether the reward declares a gradient; plain functions do until a result has none."""
        return bool(getattr(self.reward, "differentiable", True))

    def rewards(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None, t: Time | None = None
    ) -> Float[Tensor, "b"]:
        """r(x) in float64, unscaled, -inf where a constraint is broken.

        Raises:
            NonFiniteReward: NaN, +inf, or -inf where a gradient is wanted; names the sample and, if
                given, the time.
            ValueError: anything but one floating-point number per sample.
        """
        r = self.reward(x, **given_to(self.cond_argument, cond))
        if not isinstance(r, Tensor) or r.shape != x.shape[:1] or not r.is_floating_point():
            got = f"{tuple(r.shape)} of {r.dtype}" if isinstance(r, Tensor) else type(r).__name__
            expected = f"one floating-point number per sample, shape ({len(x)},)"
            raise ValueError(
                f"a reward returns {expected}; {name_of(self.reward)} returned {got}:"
                " correct its return value"
            )
        r = r.double()
        if not r.detach().isfinite().all():
            try:
                r = self.constrained(r, x, t)
            except NonFiniteReward as error:
                error.x = x[error.sample].detach().clone()
                raise
        return counting.reward(r)

    def constrained(
        self, r: Float[Tensor, "b"], x: Float[Tensor, "b *shape"], t: Time | None
    ) -> Float[Tensor, "b"]:
        """Refuses or rejects NaN; leaves -inf where no gradient is wanted."""
        name = name_of(self.reward)
        check_finite(x, f"what {name} is asked about", t, DIVERGED)
        if self.on_nonfinite == "reject":
            r = torch.where(r.isnan(), -torch.inf, r)
        check_finite(torch.where(r.detach() == -torch.inf, 0.0, r.detach()), name, t, FIX)
        if r.requires_grad:
            check_finite(r, name, t, NO_HARD_GRADIENT)
        if (self.scale < 0).any():
            check_finite(
                r, f"at a negative scale, {name}", t, "a constraint is -inf at a positive scale"
            )
        return r

    def forward(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None, t: Time | None = None
    ) -> Float[Tensor, "b"]:
        return self.scaled(self.rewards(x, cond, t), cond)

    def scaled(self, rewards: Float[Tensor, "... b"], cond: Cond = None) -> Float[Tensor, "... b"]:
        """Computes scale * r for known rewards of samples with these conditions."""
        scale = self.scale_for(rewards.shape[-1], cond).to(rewards)
        scaled = scale * rewards
        return torch.where(scale == 0, 0.0, scaled) if (scale == 0).any() else scaled

    def scale_for(self, samples: int, cond: Cond = None) -> Float[Tensor, "b"]:
        """The scale of each of `samples` particles: by condition if `prompts` is given, otherwise
        by position.
        """
        if self.scale.ndim == 0:
            return self.scale.expand(samples)
        if self.prompts is not None:
            return self.scale[self._prompt_of(cond)]
        if samples % len(self.scale):
            raise ValueError(
                f"a tilt with {len(self.scale)} scales, one per prompt, does not divide"
                f" {samples} samples"
            )
        return self.scale.repeat_interleave(samples // len(self.scale))

    def with_scale(self, scale: float | Tensor) -> "Tilt":
        """The same reward at another scale."""
        return Tilt(self.reward, scale, on_nonfinite=self.on_nonfinite)

    def in_order(self, cond: Cond) -> "Tilt":
        """The same tilt with its scales in the order of these prompts, as samplers take them."""
        return self if self.prompts is None else self.with_scale(self.scale_for(0, cond))

    def _check_prompts(self) -> None:
        check(self.prompts, len(self.prompts), "scale")
        if self.scale.shape != (len(self.prompts),):
            got = f"{len(self.prompts)} prompts and a scale of shape {tuple(self.scale.shape)}"
            raise ValueError(f"a tilt with prompts has one scale for each of them; got {got}")
        first = self._prompt_of(self.prompts)
        if (differs := (self.scale[first] != self.scale).nonzero()).numel():
            k = int(differs[0])
            one, other = float(self.scale[first[k]]), float(self.scale[k])
            raise ValueError(
                f"prompt {self.prompts[k]} has two scales, {one:g} and {other:g}; give it one"
            )

    def _prompt_of(self, cond: Cond) -> Int[Tensor, "b"]:
        """Which prompt each condition is."""
        if cond is None:
            raise ValueError(
                "a tilt with a scale for each prompt needs the conditions of the samples; pass cond"
            )
        device = self.scale.device
        match = same(to(cond, device), to(self.prompts, device)).to(device)
        if (unknown := (~match.any(1)).nonzero()).numel():
            raise ValueError(
                f"the tilt has no scale for the prompt {cond[int(unknown[0])]};"
                f" it has them for {list(self.prompts)}"
            )
        return match.int().argmax(1)


def check_finite(values: Tensor, what: str, t: Time | None = None, advice: str = FIX) -> None:
    """Raises NonFiniteReward for the first sample of `values` (B, ...) that is not finite."""
    finite = values.detach().isfinite().reshape(len(values), -1).all(1)
    if finite.all():
        return
    i = int((~finite).nonzero()[0, 0])
    value = values.detach()[i]
    shown = f"{float(value):g}" if value.ndim == 0 else "not finite"
    when = None if t is None else float(torch.as_tensor(t).detach().expand(len(values))[i])
    raise NonFiniteReward(f"{what} is {shown}", i, when, advice)


def check_gradient(tilt: "Tilt", gradient: Tensor, t: Time | None = None) -> None:
    """Raises NonFiniteReward for the first sample whose gradient (B, *shape) is not finite."""
    check_finite(gradient, f"the gradient of {name_of(tilt.reward)}", t)


def no_gradient(reward: RewardFunction, instead: str) -> str:
    """The message of a gradient method that was given a reward without one."""
    if getattr(reward, "differentiable", True):
        why = "torch cannot follow how its result comes from x"
    else:
        why = (
            getattr(reward, "why_not_differentiable", "").rstrip(".")
            or "it says differentiable = False"
        )
    return f"{name_of(reward)} has no gradient ({why}); use {instead}, which needs none"
