"""Groupwise rewards: functions of all samples of a prompt at once."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from steer.annotations import Count
from steer.conditions import condition_argument, given_to, name_of, pick, prompts_of

__all__ = ["Groupwise"]


class Groupwise(Reward):
    """r(x_1, ..., x_n) of the n samples of one prompt: ranks, win rates, novelty in the group.

    Samples of equal conditions are a group; without conditions all samples are one. The group is
    what arrives in one call, so that a sample's reward depends on the others by design. It tilts no
    law of a single sample: use it to select and to tune by groups, not for log Z.

    Args:
        function: the samples of one prompt (n, *shape) -> (n,), or with their conditions as a
            second argument as for a FunctionReward; a name decides, see steer.conditions.
        size: n, which each group must have: give it wherever batches are cut, as by max_batch;
            None takes any.
        differentiable: False for a function whose gradient is lost or useless.

    Raises:
        ValueError: when called, for a group of another size, or what the function raises or returns
            that is not one number per sample.
    """

    independent = False
    why_not_differentiable = "This function was declared to have no gradient."
    instead = "Use a method without gradients, such as best-of-n, or write the function in torch."

    def __init__(
        self,
        function: Callable[..., Tensor],
        size: Count | None = None,
        differentiable: bool = True,
    ) -> None:
        super().__init__()
        self.function = function
        self.size = size
        self.differentiable = differentiable
        self.cond_argument = condition_argument(function)
        self.freeze()

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        groups = prompts_of(cond, len(x)).cpu()
        value = x.new_zeros(len(x))
        for group in groups.unique():
            members = (groups == group).nonzero()[:, 0]
            found = self.of_group(x[members.to(x.device)], pick(cond, members))
            value = value.index_put((members.to(x.device),), found.to(value))
        return value

    def of_group(self, x: Float[Tensor, "n *shape"], cond: Cond) -> Float[Tensor, " n"]:
        """Compute the rewards of one group."""
        name = name_of(self.function)
        if self.size is not None and len(x) != self.size:
            raise ValueError(
                f"Groupwise: expected {self.size} samples of a prompt at once, got {len(x)}: let "
                "max_batch and particles be multiples of size"
            )
        found = self.function(x, **given_to(self.cond_argument, cond))
        if not isinstance(found, Tensor) or found.shape != (len(x),):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"Groupwise: expected {len(x)} numbers of '{name}', one for each sample, got {got}"
            )
        return found

    def extra_repr(self) -> str:
        return f"{name_of(self.function)}, size={self.size}"
