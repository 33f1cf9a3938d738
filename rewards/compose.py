"""Rewards composed of rewards: sums, decoding, clipping, ensembles, randomised smoothing."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewards.base import Cond, Reward, as_reward
from steer.nearest import hint
from steer.pixels import as_saved

__all__ = ["Clipped", "Decoded", "Ensemble", "Smoothed", "Sum", "from_signed"]


class Composite(Reward):
    """A reward composed of rewards, differentiable where all its parts are."""

    def inherit(self, parts: Iterable[Reward]) -> None:
        """Take `differentiable`, the reasons against it, and `independent` from the parts."""
        parts = list(parts)
        self.independent = all(part.independent for part in parts)
        without = [part for part in parts if not part.differentiable]
        self.differentiable = not without
        self.why_not_differentiable = " ".join(
            dict.fromkeys(part.why_not_differentiable for part in without)
        )
        self.instead = " ".join(dict.fromkeys(part.instead for part in without))


class Sum(Composite):
    """A weighted sum of named rewards, r(x) = sum_i w_i r_i(x).

    Args:
        rewards: r_i by name.
        weights: w_i by the same names; 1 for a name left out; may be negative.

    Raises:
        ValueError: if there is no reward, or a weight is not finite or has an unknown name.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward | Callable[..., Tensor]],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not rewards:
            raise ValueError(
                "Sum: expected at least one reward by name, got none: pass {name: reward}"
            )
        parts = [as_reward(reward) for reward in rewards.values()]
        self.parts = nn.ModuleList(parts)
        self.inherit(parts)
        self.weights = dict.fromkeys(rewards, 1.0)
        for name, weight in (weights or {}).items():
            self.set_weight(name, weight)

    def set_weight(self, name: str, weight: float) -> None:
        """Change one weight. Raises ValueError for an unknown name or a non-finite weight."""
        if name not in self.weights:
            known = ", ".join(self.weights)
            ending = hint(name, self.weights, cutoff=0.0)
            raise ValueError(f"Sum: expected weights for {known}, got '{name}': {ending}")
        if not math.isfinite(weight):
            raise ValueError(f"Sum: expected a finite weight for '{name}', got {weight}")
        self.weights[name] = float(weight)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        values = self.terms(x, cond)
        return torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum(0)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        """Compute each reward by its name, without its weight."""
        return {name: part(x, cond) for name, part in zip(self.weights, self.parts, strict=True)}

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())


class Decoded(Composite):
    """A reward of decoded samples, r(decode(x)), for maps of latents or of images in [-1, 1].

    Args:
        reward: r, of images in [0, 1].
        decode: x -> images, such as `from_signed` or the decoder of a latent space; a module is
            frozen.
        recompute: gradient checkpointing of the decoder: its activations are not kept but
            recomputed for the gradient, which costs one more forward pass of it. (Chen et al. 2016,
            arXiv 1604.06174.)
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        decode: Callable[[Tensor], Tensor],
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.reward = as_reward(reward)
        self.decode = decode
        self.recompute = recompute
        self.inherit([self.reward])
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        return self.reward(self.images(x), cond)

    def images(self, x: Float[Tensor, "b *shape"]) -> Tensor:
        """Compute decode(x)."""
        if self.recompute and torch.is_grad_enabled() and x.requires_grad:
            return checkpoint(self.decode, x, use_reentrant=False)
        return self.decode(x)

    def as_saved(self) -> "Decoded":
        """The reward of the pictures that 8-bit files keep, for reports; it has no gradient.

        What is decoded to anything but images, or films, keeps its values.
        """
        return Decoded(self.reward, lambda x: as_saved(self.decode(x)))

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        return self.reward.terms(self.images(x), cond)


def from_signed(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert images in [-1, 1] to images in [0, 1], as (x + 1) / 2.

    Values outside stay outside: a clamp would have no gradient there, and would hide from the
    reward that a sample has left the range.
    """
    return (x + 1) / 2


class Clipped(Composite):
    """A reward clipped to [low, high], min(max(r(x), low), high).

    The gradient is zero outside the bounds: it cannot lead a sample that starts below `low` back.

    Args:
        reward: r.
        low: the lower bound; none by default.
        high: the upper bound; none by default.

    Raises:
        ValueError: if low is not below high.
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"Clipped: expected low < high, got low={low}, high={high}: swap them")
        self.reward = as_reward(reward)
        self.inherit([self.reward])
        self.low, self.high = low, high

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        return self.reward(x, cond).clamp(self.low, self.high)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        return self.reward.terms(x, cond)

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}"


class Ensemble(Composite):
    """An ensemble of reward models, r(x) = mean_i r_i(x) - k std_i r_i(x).

    With pessimism k > 0 the disagreement of the models counts against a sample, which makes it less
    profitable to exploit the errors of one of them. The standard deviation is the biased one
    (divided by the number of models).

    Reference: Coste et al. 2023, Reward Model Ensembles Help Mitigate Overoptimization,
    arXiv:2310.02743 (they subtract the variance; the standard deviation keeps the unit of the
    reward).

    Args:
        rewards: r_i, on a common scale.
        pessimism: k >= 0.

    Raises:
        ValueError: if there is no reward or k is negative.
    """

    def __init__(
        self, rewards: Sequence[Reward | Callable[..., Tensor]], pessimism: float = 0.0
    ) -> None:
        super().__init__()
        if not rewards:
            raise ValueError(
                "Ensemble: expected at least one reward, got none: pass a list of rewards"
            )
        if not 0 <= pessimism < math.inf:
            raise ValueError(
                f"Ensemble: expected pessimism >= 0, got {pessimism}: give 0 for the plain mean"
            )
        parts = [as_reward(reward) for reward in rewards]
        self.parts = nn.ModuleList(parts)
        self.pessimism = float(pessimism)
        self.inherit(parts)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        values = torch.stack([part(x, cond) for part in self.parts])
        return values.mean(0) - self.pessimism * values.std(0, correction=0)

    def extra_repr(self) -> str:
        return f"pessimism={self.pessimism:g}"


class Smoothed(Composite):
    """Randomised smoothing of a reward, r(x) = mean_v r(shift_v(x) + noise e_v).

    The gradient of a classifier is rough, and following it tends to add adversarial patterns. The
    average over noise and over shifts by whole pixels is smooth at their scale, so that such
    patterns gain little. The perturbations are fixed and the same for all samples: the reward
    remains a deterministic function.

    References: Athalye et al. 2018, Synthesizing Robust Adversarial Examples, arXiv:1707.07397
    (expectation over transformations); Cohen et al. 2019, Certified Adversarial Robustness via
    Randomized Smoothing, arXiv:1902.02918.

    Args:
        reward: r.
        noise: standard deviation of the noise, in units of x.
        shift: the largest shift in pixels, either way, with replicated edges; 0 for anything but
            images.
        views: number of perturbations; the cost in evaluations of r.
        seed: of the perturbations.

    Raises:
        ValueError: if views < 1, or noise or shift is negative; when called, for shifts of samples
            that are no images.
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        noise: float = 0.3,
        shift: int = 0,
        views: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if views < 1 or shift < 0 or not 0 <= noise < math.inf:
            raise ValueError(
                "Smoothed: expected views >= 1, noise and shift >= 0, "
                f"got views={views}, noise={noise}, shift={shift}"
            )
        self.reward = as_reward(reward)
        self.inherit([self.reward])
        self.noise = noise
        self.shift = shift
        self.views = views
        self.seed = seed

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        if self.shift and x.ndim != 4:
            raise ValueError(
                "Smoothed: only images (b, c, h, w) can be shifted, "
                f"got {tuple(x.shape)}: give shift=0"
            )
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.views):
            down, right = torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist()
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            values.append(self.reward(self.shifted(x, down, right) + self.noise * noise, cond))
        return torch.stack(values).mean(0)

    def shifted(self, x: Tensor, down: int, right: int) -> Tensor:
        """Crop the padded images from row `down` and column `right` on."""
        if not self.shift:
            return x
        padded = nn.functional.pad(x, (self.shift,) * 4, mode="replicate")
        return padded[:, :, down : down + x.shape[2], right : right + x.shape[3]]

    def extra_repr(self) -> str:
        return f"noise={self.noise:g}, shift={self.shift}, views={self.views}"
