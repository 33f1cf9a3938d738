"""Rewards made of rewards: weighted sums, decoders in front, clipping behind, ensembles."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewards.base import Cond, Reward, as_reward
from steer.nearest import hint

__all__ = ["Clipped", "Decoded", "Ensemble", "Smoothed", "Sum", "from_signed"]


class Composite(Reward):
    """A reward made of rewards: it has a gradient where all its parts have one, and else passes on
    their reasons.
    """

    def inherit(self, parts: Iterable[Reward]) -> None:
        """Take over from the parts whether there is a gradient and, if not, why not."""
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
        weights: w_i by the same names; a name left out weighs 1, and a negative weight turns "more"
            into "less".

    Raises:
        ValueError: if there is no reward, or a weight is not finite or belongs to none of them.
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
        if name not in self.weights:
            known = ", ".join(self.weights)
            ending = hint(name, self.weights, cutoff=0.0)
            raise ValueError(f"Sum: expected weights for {known}, got '{name}': {ending}")
        if not math.isfinite(weight):
            raise ValueError(f"Sum: expected a finite weight for '{name}', got {weight}: mend it")
        self.weights[name] = float(weight)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        values = self.terms(x, cond)
        return torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum(0)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        """Each reward by its name, on its own scale: before its weight."""
        return {name: part(x, cond) for name, part in zip(self.weights, self.parts, strict=True)}

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())


class Decoded(Composite):
    """A reward of what a sample stands for, r(decode(x)): the bridge from the map's space to images
    in [0, 1].

    Args:
        reward: r, which looks at images in [0, 1].
        decode: x -> images, such as `from_signed` or the decoder of a latent space; a module is
            frozen.
        recompute: keep nothing of the decoder for the gradient and run it once more when that is
            taken: a large decoder then needs the memory of one forward pass, for half as much work
            again. (Chen et al. 2016, arXiv 1604.06174.)
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
        """decode(x)."""
        if self.recompute and torch.is_grad_enabled() and x.requires_grad:
            return checkpoint(self.decode, x, use_reentrant=False)
        return self.decode(x)

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        return self.reward.terms(self.images(x), cond)


def from_signed(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Images in [-1, 1] -> images in [0, 1], as (x + 1) / 2.

    Values a little outside stay outside: a clamp would cut the gradient exactly where a sample has
    gone too far, and
    would hide from the reward that it has.
    """
    return (x + 1) / 2


class Clipped(Composite):
    """A reward kept within bounds, min(max(r(x), low), high), so that no sample is worth endless
    effort.

    The gradient vanishes outside the bounds: a sample that starts below `low` is never led out by
    its gradient.

    Args:
        reward: r.
        low: the floor; none by default.
        high: the ceiling; none by default.

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
            raise ValueError(
                f"Clipped: expected low < high, got low={low}, high={high}: exchange them"
            )
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
    """Several judges of the same thing, r(x) = mean_i r_i(x) - k std_i r_i(x).

    With pessimism k > 0 the judges' disagreement counts against a sample, which takes the profit
    out of fooling one of them. The standard deviation is that of these judges (divided by their
    number, not by one less).

    Reference: Coste et al. 2023, Reward Model Ensembles Help Mitigate Overoptimization,
    arXiv:2310.02743 (they subtract
    the variance; the standard deviation keeps the unit of the reward).

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
    """A reward averaged over small disturbances, r(x) = mean_v r(shift_v(x) + noise e_v), so that
    fine patterns do not pay.

    What a classifier likes best next to an image is often a pattern that no eye would miss: the
    gradient of a network is
    rough. Its average over noise and over shifts by whole pixels is smooth at their scale, and what
    is left to gain is what the image shows. The disturbances are a fixed few, the same for all
    samples, so that the reward remains a function.

    References: Athalye et al. 2018, Synthesizing Robust Adversarial Examples, arXiv:1707.07397
    (expectation over
    transformations); Cohen et al. 2019, Certified Adversarial Robustness via Randomized Smoothing,
    arXiv:1902.02918.

    Args:
        reward: r.
        noise: standard deviation of the noise, in units of x.
        shift: most pixels either way that images are moved, their edges repeated; 0 for anything
            but images.
        views: disturbances; the cost in evaluations of r.
        seed: of them.

    Raises:
        ValueError: if there is no view, or noise or shift is negative; when called, for shifts of
            what is no image.
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
                f"Smoothed: expected views >= 1, noise and shift >= 0, got views={views}, noise={noise}, shift={shift}"
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
                f"Smoothed: only images (b, c, h, w) can be shifted, got {tuple(x.shape)}: give shift=0"
            )
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.views):
            down, right = torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist()
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            values.append(self.reward(self.shifted(x, down, right) + self.noise * noise, cond))
        return torch.stack(values).mean(0)

    def shifted(self, x: Tensor, down: int, right: int) -> Tensor:
        """The window of a padded image that begins there."""
        if not self.shift:
            return x
        padded = nn.functional.pad(x, (self.shift,) * 4, mode="replicate")
        return padded[:, :, down : down + x.shape[2], right : right + x.shape[3]]

    def extra_repr(self) -> str:
        return f"noise={self.noise:g}, shift={self.shift}, views={self.views}"
