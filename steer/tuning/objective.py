"""The interface of tuning objectives.

A tuning run calls an objective in this order: `prepare` once, before the optimizer is made and a
checkpoint is read; then for every optimizer step `begin` and `forward`; at the end, and whenever
samples are watched, `product`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Generic, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from steer.annotations import checked
from steer.conditions import to
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tilt import Tilt, check_gradient, no_gradient
from steer.training.base import Loss

__all__ = ["Follower", "RolloutObjective", "TuningClaim", "TuningObjective"]

TuningClaim = Literal["exact", "near", "transport", "maximiser", "teachers"]
GRADIENT_FREE = "RewardWeighted, TiltMatching, FlowMapGrpo or DiffusionNft"
Kept = TypeVar("Kept", bound=tuple)


class TuningObjective(nn.Module, ABC):
    """A tuning loss: objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss.

    It is a module, so that what it learns or keeps beside the map (in `prepare`) is trained and
    saved with it: parameters that require a gradient are trained, all others and buffers are saved.

    `claim` says what the tuned model becomes:

    - "exact": it draws from p_1 exp(scale r) / Z, at the minimum of the loss and for a network that
      reaches it;
    - "near": something near it, equal to first order in the reward;
    - "transport": the optimum of another problem, which the objective names: the reward less the
      cost of moving each sample;
    - "maximiser": high reward, no stated law;
    - "teachers": the law of its teachers, without a reward.

    Attributes:
        claim: the claim above.
        needs_gradient: whether it differentiates the reward.
        per_prompt: samples of each prompt in a batch, side by side, at least.
        interpolates: whether the tuned velocity is that of an interpolant of its own samples; if
            not, noise changes the tuned model's law (`FlowMap.score_matches_flow`).
        any_base: whether the claim holds for a base whose velocity is no interpolant's.
        frozen: modules that it uses, such as teachers, which are neither trained nor saved.
    """

    claim: TuningClaim
    needs_gradient: bool = False
    per_prompt: int = 1
    interpolates: bool = True
    any_base: bool = False
    frozen: tuple[nn.Module, ...] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    # prepare and begin are hooks: an objective that keeps nothing leaves them empty
    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        """Makes what is kept beside the map: a copy of it, a further network.

        Raises:
            ValueError: a map or a reward that this objective cannot work with.
        """

    def begin(self, flow_map: ResidualMap, step: int) -> None:
        """Moves what follows the map, such as an old policy; before every optimizer step."""

    @abstractmethod
    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        """Computes the loss of one batch, all randomness from the generator.

        Args:
            flow_map: the map being tuned.
            base: the map it started from, frozen.
            tilt: the reward and its scale.
            x0: noise.
            cond: conditions.
            generator: the source of all randomness.
            step: the training step.
        """

    def product(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        """Builds the tuned model: what is watched, sampled and saved. The map itself by default."""
        return flow_map


class RolloutObjective(TuningObjective, Generic[Kept]):
    """An objective on samples that are collected without gradient, and kept for several steps.

    A step whose number is divisible by `reuse` collects; the others take what is kept. A run that
    is stopped between two collections saves what is kept.

    Args:
        reuse: optimizer steps on each collection.

    Raises:
        ValueError: reuse below 1.
    """

    record: type[Kept]

    def __init__(self, reuse: int = 1):
        super().__init__()
        if reuse < 1:
            raise ValueError(
                f"{type(self).__name__} takes at least one step on each collection of samples;"
                f" got reuse={reuse}"
            )
        self.reuse = reuse
        self.kept: Kept | None = None

    @abstractmethod
    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Kept:
        """Collects samples and their rewards: a named tuple of tensors, conditions and None."""

    @abstractmethod
    def loss(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        kept: Kept,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        """Computes the loss on what was collected."""

    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        kept = self.kept
        if step % self.reuse == 0 or kept is None:
            with torch.no_grad():
                kept = self.collect(flow_map, base, tilt, x0, cond, generator)
            self.kept = kept if self.reuse > 1 else None
        return self.loss(flow_map, base, tilt, kept, generator, step)

    def kept_state(self) -> tuple | None:
        """Returns what is kept, to be saved in a checkpoint."""
        return None if self.kept is None else tuple(self.kept)

    def keep(self, state: tuple | None, device: torch.device) -> None:
        """Takes what was saved."""
        moved = [to(value, device) for value in state or ()]
        self.kept = self.record(*moved) if moved else None


class Follower(nn.Module):
    """A frozen copy of a map that is moved towards it: an old policy, or a reference.

    It is saved with the objective that holds it.

    Args:
        flow_map: the map to copy.
    """

    def __init__(self, flow_map: ResidualMap):
        super().__init__()
        self.map = deepcopy(flow_map).requires_grad_(False).eval()

    @torch.no_grad()
    def follow(self, flow_map: ResidualMap, share: float) -> None:
        """Moves the copy by a share of the way to the map: 1 copies it anew, 0 does nothing."""
        for mine, theirs in zip(self.map.parameters(), flow_map.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), share)
        for own, its in zip(self.map.buffers(), flow_map.buffers(), strict=True):
            own.copy_(its)


def require_gradient(tilt: Tilt, gain: Tensor | None = None, instead: str = GRADIENT_FREE) -> None:
    """Raises ValueError for a reward that declares, or whose result shows, that it has no gradient.

    Args:
        tilt: the reward.
        gain: its result, once there is one.
        instead: objectives that need none.
    """
    if not tilt.differentiable or (gain is not None and not gain.requires_grad):
        raise ValueError(no_gradient(tilt.reward, instead))


def differentiable_gain(tilt: Tilt, z: Float[Tensor, "b *shape"], cond: Cond) -> Float[Tensor, "b"]:
    """Computes scale * r(z) in float64, to be differentiated in z.

    Raises:
        ValueError: a reward without a gradient.
        NonFiniteReward: when called, or in the backward pass, naming the sample.
    """
    require_gradient(tilt)
    gain = tilt(z, cond, 1.0)
    require_gradient(tilt, gain)
    z.register_hook(lambda g: check_gradient(tilt, g, 1.0))
    return gain


def reward_gradient(
    tilt: Tilt, z: Float[Tensor, "b *shape"], cond: Cond
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *shape"]]:
    """Computes scale * r(z) and its gradient in z, both detached.

    Raises:
        ValueError, NonFiniteReward: as `differentiable_gain`.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        gain = differentiable_gain(tilt, z, cond)
        (gradient,) = torch.autograd.grad(gain.sum(), z)
    return gain.detach(), gradient


def in_parts(
    part: Callable[[slice], Float[Tensor, "n *rest"]], total: int, at_once: int | None
) -> Float[Tensor, "b *rest"]:
    """Computes results of samples, some at a time, with the activations of one part at most.

    The backward pass computes each part a second time, for one more forward pass.

    Args:
        part: the results for the samples of a slice, without any randomness.
        total: the number of samples.
        at_once: samples per part; None computes all of them at once, and once.
    """
    if at_once is None or at_once >= total:
        return part(slice(0, total))
    slices = [slice(k, min(k + at_once, total)) for k in range(0, total, at_once)]
    return torch.cat([checkpoint(part, each, use_reentrant=False) for each in slices])
