"""A reward on a standard scale, so that several can be added."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward, as_reward
from rewards.compose import Composite
from steer.annotations import Positive

__all__ = ["Standardised"]


class Standardised(Composite):
    """(r(x) - mean) / std, with figures given or measured once.

    The figures are constants: with those of each batch, a sample's reward would depend on its batch
    mates. `Standardised.measured` takes them of samples.

    Args:
        reward: r.
        mean, std: of r over the samples that count as usual, such as unsteered ones.

    Raises:
        ValueError: if std is not above 0.
    """

    def __init__(self, reward: Reward | Callable[..., Tensor], mean: float, std: Positive) -> None:
        super().__init__()
        if not 0 < std < float("inf"):
            raise ValueError(
                f"Standardised: expected std > 0, got {std}: measure it over samples that differ"
            )
        self.reward = as_reward(reward)
        self.inherit([self.reward])
        self.mean = float(mean)
        self.std = float(std)

    @classmethod
    def measured(
        cls,
        reward: Reward | Callable[..., Tensor],
        x: Float[Tensor, "b *shape"],
        cond: Cond = None,
    ) -> "Standardised":
        """Build the reward with the mean and standard deviation of these samples.

        Raises:
            ValueError: fewer than two samples, or equal rewards.
        """
        if len(x) < 2:
            raise ValueError(f"Standardised.measured: expected at least 2 samples, got {len(x)}")
        values = as_reward(reward)(x, cond).detach().double()
        return cls(reward, float(values.mean()), float(values.std()))

    def forward(self, x: Float[Tensor, "b *shape"], cond: Cond = None) -> Float[Tensor, " b"]:
        return (self.reward(x, cond) - self.mean) / self.std

    def terms(
        self, x: Float[Tensor, "b *shape"], cond: Cond = None
    ) -> dict[str, Float[Tensor, " b"]]:
        return self.reward.terms(x, cond)

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, std={self.std:g}"
