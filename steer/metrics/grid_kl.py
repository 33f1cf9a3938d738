"""KL(true || model) on a histogram of the plane.

KL = sum_c p_c log(p_c / q_c),   c over the bins^2 cells of a square and one more cell, everything outside it.

q_c = (n_c + a / k) / (n + a) from n model samples: `pseudo_samples` a, by default one sample in
all, spread evenly over the k = bins^2 + 1 cells (Perks' prior), keeps the KL finite where the model
put nothing; an empty cell then costs p_c log(p_c k (n + 1)). At equal laws the KL is about (k' - 1)
/ (2 n) for k' occupied cells, and (k' - 1)(1/n + 1/m)/2 if p was itself counted from m samples:
.010 for 512 cells and 50 000 of each. The binned KL is a lower bound on the KL.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

__all__ = ["GridKl", "cell_frequencies"]


def grid_kl(
    true: Float[Tensor, " k"], counts: Int[Tensor, " k"], pseudo_samples: float = 1.0
) -> Float[Tensor, ""]:
    """KL of true cell probabilities from a model known by its counts, in float64.

    Args:
        true: (k,) probabilities p_c.
        counts: (k,) model samples n_c in each cell.
        pseudo_samples: a >= 0, spread evenly over the cells; at 0 a missed cell makes the KL
            infinite.
    """
    p = true.double()
    n = counts.double()
    q = (n + pseudo_samples / len(n)) / (n.sum() + pseudo_samples)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def cell_counts(x: Float[Tensor, "n 2"], bins: int, low: float, high: float) -> Int[Tensor, " k"]:
    """How many samples fall in each of the bins^2 cells of [low, high)^2, row by row, and outside
    (the last entry).

    Raises:
        ValueError: for samples that are not finite points of the plane.
    """
    if x.ndim != 2 or x.shape[1] != 2 or not torch.isfinite(x).all():
        raise ValueError(
            f"expected finite samples of shape (n, 2), got {tuple(x.shape)}, some maybe not finite"
        )
    inside = ((x >= low) & (x < high)).all(1)
    cell = (
        ((x[inside].double() - low) * (bins / (high - low))).long().clamp(max=bins - 1)
    )  # just below high may round up
    counts = torch.bincount(cell[:, 0] * bins + cell[:, 1], minlength=bins**2)
    return torch.cat([counts, (~inside).sum()[None]])


def cell_frequencies(
    x: Float[Tensor, "n 2"], bins: int, low: float, high: float
) -> Float[Tensor, "bins bins"]:
    """The share of reference samples in each cell, to hold a model against where exact
    probabilities are unknown.
    """
    return cell_counts(x, bins, low, high)[:-1].reshape(bins, bins).double() / len(x)


class GridKl(Metric):
    """KL(true || model) from exact or counted cell probabilities, on a square grid.

    update(x (n, 2)); compute() -> scalar. Against reference samples give their `cell_frequencies`
    as probabilities.

    Args:
        probabilities: (bins, bins) of the true law, first axis first coordinate; what they lack of
            1 is outside.
        low: lower edge of the square, in both coordinates.
        high: upper edge.
        pseudo_samples: smoothing of the model, in samples.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    true: Tensor
    counts: Tensor

    def __init__(
        self,
        probabilities: Float[Tensor, "bins bins"],
        low: float,
        high: float,
        pseudo_samples: float = 1.0,
    ) -> None:
        total = float(probabilities.sum())
        if probabilities.min() < 0 or not 0 < total <= 1 + 1e-6:
            raise ValueError(
                f"expected probabilities >= 0 of sum at most 1, got a sum of {total:.6g}; divide by the total"
            )
        if not low < high or pseudo_samples < 0:
            raise ValueError(
                f"expected low < high and pseudo_samples >= 0, got {low}, {high} and {pseudo_samples}"
            )
        super().__init__()
        self.bins = len(probabilities)
        self.low = low
        self.high = high
        self.pseudo_samples = pseudo_samples
        inside = probabilities.double().flatten()
        outside = (1 - inside.sum()).clamp(min=0)  # negative by rounding only: checked above
        self.register_buffer("true", torch.cat([inside, outside[None]]), persistent=False)
        self.add_state(
            "counts", torch.zeros(self.bins**2 + 1, dtype=torch.long), dist_reduce_fx="sum"
        )

    def update(self, x: Float[Tensor, "n 2"]) -> None:
        """Counts model samples; those outside the square count as such."""
        self.counts = self.counts + cell_counts(x, self.bins, self.low, self.high)

    def compute(self) -> Tensor:
        """KL(true || model). Raises ValueError before any sample."""
        if self.counts.sum() == 0:
            raise ValueError("expected model samples, got none; call update(x) first")
        return grid_kl(self.true, self.counts, self.pseudo_samples)
