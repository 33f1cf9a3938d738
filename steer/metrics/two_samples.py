"""The base class of distances between two weighted sets of samples."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class TwoSamples(Metric, ABC):
    """A distance between model samples x and reference samples y, with log-weights.

    Samples are kept in float64 and flat: torchmetrics gathers an empty rank as a 1-D tensor, so 2-D
    states would not synchronise. All weights of a side are normalised together, over all updates;
    those of several prompts need a common scale. `forward` computes a distance after one batch,
    which has one side only: use `update`.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False

    dimension: Tensor
    x: list[Tensor]
    log_w: list[Tensor]
    y: list[Tensor]
    log_w_real: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)  # the dtype in which an empty rank takes part in a gather
        self.add_state("dimension", torch.tensor(0), dist_reduce_fx="max")
        for name in ("x", "log_w", "y", "log_w_real"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        samples: Float[Tensor, "n *shape"],
        real: bool,
        log_w: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Add samples to the real or the model side.

        Args:
            samples: (n, *shape); distances are Euclidean over all of shape.
            real: whether they come from the reference law.
            log_w: (n,) log-weights, equal ones if None.

        Raises:
            ValueError: for samples of another dimension than before, and log-weights that do not
                match them.
        """
        dimension = samples.shape[1:].numel()
        if int(self.dimension) not in (0, dimension):
            raise ValueError(
                f"expected samples of {int(self.dimension)} numbers, as before, got {dimension}"
            )
        self.dimension = torch.full_like(self.dimension, dimension)
        log_w = samples.new_zeros(len(samples)) if log_w is None else log_w
        if log_w.shape != (len(samples),):
            raise ValueError(
                f"expected log_w of shape ({len(samples)},), one per sample, "
                f"got {tuple(log_w.shape)}"
            )
        (self.y if real else self.x).append(samples.double().flatten())
        (self.log_w_real if real else self.log_w).append(log_w.double())

    def compute(self) -> Tensor:
        """Compute the distance of the two sets. Raises ValueError while either side is empty."""
        x, log_w = self._side("model", self.x, self.log_w)
        y, log_w_real = self._side("real", self.y, self.log_w_real)
        return self.distance(x, y, log_w, log_w_real)

    def _side(
        self, name: str, samples: list[Tensor] | Tensor, log_w: list[Tensor] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gather the samples and log-weights of one side. Raises ValueError if it is empty."""
        if len(log_w) == 0:
            raise ValueError(
                f"expected samples from both sides, got no {name} ones; "
                "call update(samples, real=...) first"
            )
        return dim_zero_cat(samples).reshape(-1, int(self.dimension)), dim_zero_cat(log_w)

    @abstractmethod
    def distance(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        log_w: Float[Tensor, " n"],
        log_w_real: Float[Tensor, " m"],
    ) -> Float[Tensor, ""]:
        """Compute the distance between two weighted sets."""
