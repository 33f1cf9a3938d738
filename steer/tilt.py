"""What is wanted, and what that says of a noisy sample: Tilt and Value.

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
from steer.conditions import Cond, condition_argument
from steer.interpolant import Time

RewardFunction = Callable[..., Tensor]
FIX = "fix the reward at that sample, clip it (rewards.Clipped), or reject NaN with Tilt(..., on_nonfinite='reject')"
NO_HARD_GRADIENT = (
    "a gradient cannot lead around a hard constraint: use UnguidedTilting, FkSteering, BeamSearch, Svdd or"
    " BestOfN"
)
DIVERGED = "the samples run away, not the reward: take more steps, or a smaller scale or strength"


class NonFiniteReward(ValueError):
    """A reward, or its gradient, was NaN or infinite, at one sample of the batch, and at one time
    if that is known.
    """

    def __init__(self, problem: str, sample: int, t: float | None = None, advice: str = FIX):
        when = "" if t is None else f" at t = {t:.4g}"
        super().__init__(f"{problem} for sample {sample}{when}; {advice}")
        self.problem, self.sample, self.t, self.advice = problem, sample, t, advice

    def further(self, samples: int) -> "NonFiniteReward":
        """The same, of a batch that has this many more samples in front."""
        return NonFiniteReward(self.problem, self.sample + samples, self.t, self.advice)


class Tilt(nn.Module):
    """scale * r(x) in float64, checked: one number per sample, finite, or -inf for what must not
    be.

    A reward of -inf is a hard constraint: such samples have weight zero. Methods that weigh, search
    or choose take it; those
    that follow its gradient refuse it.

    Args:
        reward: r(x) or r(x, cond) -> (B,), higher is better. A module that says `differentiable =
            False` is believed.
        scale: inverse temperature; a number, or one per prompt. Zero leaves the law as it is,
            negative prefers low.
        on_nonfinite: what NaN means: "raise" stops with the sample's index and the time, "reject"
            takes it for -inf.
        prompts: the condition that each of several scales belongs to: labels (P,), embeddings (P,
            E) or P texts. Scales are then found by the condition of a sample, in whatever order
            samples come; without, by their place in the batch, which is that of samplers: prompts
            in order, the particles of a prompt side by side.
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
        self.reward, self.on_nonfinite = reward, on_nonfinite
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
        """Whether gradient methods may ask; plain functions are taken to be until their result has
        no gradient.
        """
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
        r = self.reward(x, **({self.cond_argument: cond} if self.cond_argument else {}))
        if not isinstance(r, Tensor) or r.shape != x.shape[:1] or not r.is_floating_point():
            got = f"{tuple(r.shape)} of {r.dtype}" if isinstance(r, Tensor) else type(r).__name__
            expected = f"one floating-point number per sample, shape ({len(x)},)"
            raise ValueError(
                f"a reward gives {expected}; {name_of(self.reward)} gave {got}: mend what it returns"
            )
        r = r.double()
        if not r.detach().isfinite().all():
            r = self.constrained(r, x, t)
        return counting.reward(r)

    def constrained(
        self, r: Float[Tensor, "b"], x: Float[Tensor, "b *shape"], t: Time | None
    ) -> Float[Tensor, "b"]:
        """Rewards with NaN refused or rejected, where only -inf may be left, and no gradient is
        asked of it.
        """
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
        """scale * r, for rewards already known, of samples with these conditions."""
        scale = self.scale_for(rewards.shape[-1], cond).to(rewards)
        return (
            torch.where(scale == 0, 0.0, scale * rewards) if (scale == 0).any() else scale * rewards
        )

    def scale_for(self, samples: int, cond: Cond = None) -> Float[Tensor, "b"]:
        """The scale of each of `samples` particles: by condition, if the tilt knows its prompts,
        otherwise by place.
        """
        if self.scale.ndim == 0:
            return self.scale.expand(samples)
        if self.prompts is not None:
            return self.scale[self._prompt_of(cond)]
        if samples % len(self.scale):
            raise ValueError(
                f"a tilt with {len(self.scale)} scales, one per prompt, cannot share out {samples} samples"
            )
        return self.scale.repeat_interleave(samples // len(self.scale))

    def with_scale(self, scale: float | Tensor) -> "Tilt":
        """The same reward at another scale."""
        return Tilt(self.reward, scale, on_nonfinite=self.on_nonfinite)

    def in_order(self, cond: Cond) -> "Tilt":
        """The same tilt with its scales in the order of these prompts, which is how samplers take
        them.
        """
        return self if self.prompts is None else self.with_scale(self.scale_for(0, cond))

    def _check_prompts(self) -> None:
        if self.scale.shape != (len(self.prompts),):
            got = f"{len(self.prompts)} prompts and a scale of shape {tuple(self.scale.shape)}"
            raise ValueError(f"a tilt with prompts has one scale for each of them; got {got}")
        first = self._prompt_of(self.prompts)
        if (differs := (self.scale[first] != self.scale).nonzero()).numel():
            k = int(differs[0])
            raise ValueError(
                f"prompt {self.prompts[k]} has two scales, {self.scale[first[k]]:g} and {self.scale[k]:g}; give it one"
            )

    def _prompt_of(self, cond: Cond) -> Int[Tensor, "b"]:
        """Which prompt each condition is."""
        if cond is None:
            raise ValueError(
                "a tilt with a scale for each prompt needs the conditions of the samples; pass cond"
            )
        if isinstance(self.prompts, Tensor):
            same = cond.to(self.prompts.device)[:, None] == self.prompts[None]
            same = same if same.ndim == 2 else same.flatten(2).all(2)
        else:
            same = torch.tensor(
                [[one == other for other in self.prompts] for one in cond], device=self.scale.device
            )
        if (unknown := (~same.any(1)).nonzero()).numel():
            raise ValueError(
                f"the tilt has no scale for the prompt {cond[int(unknown[0])]}; it knows {list(self.prompts)}"
            )
        return same.int().argmax(1)


def check_finite(values: Tensor, what: str, t: Time | None = None, advice: str = FIX) -> None:
    """Raises NonFiniteReward naming the first sample of `values` (B, ...) that is NaN or infinite,
    and its time.
    """
    finite = (
        values.detach().isfinite().flatten(1).all(1)
        if values.ndim > 1
        else values.detach().isfinite()
    )
    if finite.all():
        return
    i = int((~finite).nonzero()[0, 0])
    value = values.detach()[i]
    shown = f"{float(value):g}" if value.ndim == 0 else "not finite"
    when = None if t is None else float(torch.as_tensor(t).detach().expand(len(values))[i])
    raise NonFiniteReward(f"{what} is {shown}", i, when, advice)


def name_of(reward: RewardFunction) -> str:
    """What to call a reward in a message."""
    return getattr(reward, "__name__", None) or type(reward).__name__


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
