"""A reward that took no part in the steering, asked what it thinks of the result."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steer.conditions import for_particles
from steer.metrics.batches import in_batches
from steer.metrics.estimate import PromptMean

__all__ = ["HeldoutReward"]


class HeldoutReward(PromptMean):
    """Mean of a held-out reward under the samples' self-normalised weights, with standard errors
    (see `Estimate`).

    update(x (P, N, *shape), cond=None, log_w (P, N) = None); compute() -> Estimate. Prompts may be
    spread over updates and ranks, the particles of one prompt may not. Samples without prompts are
    one prompt: x[None].

    Args:
        reward: (x) -> (B,), or (x, cond) -> (B,) where update is given a condition. A module runs
            as it is: put it in eval mode first.
        max_batch: samples given to the reward at once.
        metric: settings of torchmetrics' Metric, such as sync_on_compute=False for one that stays
            in its process.
    """

    def __init__(self, reward: Callable[..., Tensor], max_batch: int = 512, **metric: Any) -> None:
        super().__init__(**metric)
        self.reward = reward
        self.max_batch = max_batch

    def update(
        self,
        x: Float[Tensor, "p n *shape"],
        cond: Any = None,
        log_w: Float[Tensor, "p n"] | None = None,
    ) -> None:
        """Adds prompts, each with all its particles.

        Args:
            x: (P, N, *shape) samples.
            cond: None, or one entry per prompt: a tensor (P, ...) or a list of P.
            log_w: (P, N) log-weights, equal ones if None.

        Raises:
            ValueError: if the reward is not of shape (B,), or neither finite nor -inf (a hard
                constraint).
        """
        prompts, particles = x.shape[:2]
        values = in_batches(
            self.reward,
            x.flatten(0, 1),
            self.max_batch,
            for_particles(cond, particles),
            constrained=True,
        )
        if values.ndim != 1:
            raise ValueError(
                f"expected a reward of shape (B,), got {tuple(values.shape)}; return one number per sample"
            )
        self.add(values.reshape(prompts, particles), log_w)
