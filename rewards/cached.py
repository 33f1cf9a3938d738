"""A reward whose values are kept, for samples that are scored more than once."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, FunctionReward, Reward, as_reward
from rewards.compose import Composite
from rewards.score_store import ScoreStore, key_of
from steer.conditions import Condition, pick

__all__ = ["Cached"]


class Cached(Composite):
    """r(x) from memory or from a folder where it was computed before.

    Samples are told apart by their exact numbers and their conditions by theirs. It pays for slow
    rewards of samples that come again: a run that is started anew, the same samples under several
    settings. Where a gradient is wanted r is computed, since a kept number has none; that value is
    not kept.

    Args:
        reward: r.
        folder: where values are kept, for this run and later ones; None keeps them in memory.
        name: what values are kept under besides the class, settings and weights of the reward;
            needed in a folder for a function, whose code cannot be told from another's.

    Raises:
        ValueError: if the folder cannot be written, the reward is one of groups, or a function that
            is kept in a folder has no name.
    """

    def __init__(
        self,
        reward: Reward | Callable[..., Tensor],
        folder: str | Path | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.reward = as_reward(reward)
        self.inherit([self.reward])
        if not self.independent:
            raise ValueError(
                "Cached: the value of a groupwise reward depends on the group: keep those of its "
                "parts instead"
            )
        if folder is not None and not name and functions_in(self.reward):
            raise ValueError(
                "Cached: a function is kept in a folder under a name: give name=, and change it"
                " with the function"
            )
        self.store = ScoreStore(folder)
        self.name = name
        self.identity = identity_of(self.reward)

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        if torch.is_grad_enabled() and x.requires_grad and self.differentiable:
            return self.reward(x, cond)
        keys = [self.key(x[k], pick(cond, [k])) for k in range(len(x))]
        known = self.store.get(keys)
        first = {key: k for k, key in reversed([*enumerate(keys)]) if key not in known}
        if first:
            missing = [*first.values()]
            values = self.reward(x[missing].detach(), pick(cond, missing)).tolist()
            computed = dict(zip(first, values, strict=True))
            self.store.put(computed)
            known |= computed
        return torch.tensor([known[key] for key in keys], dtype=x.dtype, device=x.device)

    def key(self, x: Tensor, cond: Cond) -> str:
        """Name one sample under its condition."""
        return key_of(self.name, self.identity, content_of(x), content_of(cond))

    def extra_repr(self) -> str:
        return f"folder={self.store.folder}, name={self.name!r}"


def identity_of(reward: Reward) -> str:
    """Hash the classes, plain settings and weights of a reward and of its parts."""
    plain = (bool, int, float, str, tuple)
    parts = []
    for name, part in reward.named_modules():
        kind = type(part)
        settings = {k: v for k, v in vars(part).items() if isinstance(v, plain) and k != "training"}
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {sorted(settings.items())!r}")
    weights = (content_of(each) for each in reward.state_dict().values())
    return key_of(*parts, *weights)


def functions_in(reward: Reward) -> bool:
    """Whether a reward calls a plain function."""
    return any(isinstance(part, FunctionReward) for part in reward.modules())


def content_of(value: Cond) -> bytes:
    """Write a sample or the condition of one as bytes that tell it from others."""
    if isinstance(value, Tensor):
        own = value.detach().cpu().contiguous()
        data = own.flatten().view(torch.uint8).numpy().tobytes()
        return f"{own.dtype}{tuple(own.shape)}".encode() + data
    if isinstance(value, Condition):
        return b"".join(
            content_of(part) for name, field in value.fields.items() for part in (name, field)
        )
    return repr(value).encode()
