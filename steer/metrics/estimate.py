"""Means over prompts of self-normalised means over particles, with two standard errors."""

from abc import ABC
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from steer.metrics.weights import MIN_PAIR_MASS, normalized, pair_mass

__all__ = ["Estimate"]


class Estimate(NamedTuple):
    """A mean and its standard errors, scalars in float64.

    std_error takes the prompts as given and the particles as independent. Particles that share an
    ancestor are not, so after resampling it is too small, as it is when few particles carry the
    weight (a low ess). NaN where a prompt has one particle, or one with all the weight, which does
    not determine an error. std_error_over_prompts takes the prompts as independent draws,
    sd(mean_p) / sqrt(P): it holds under resampling too, and counts the differences between prompts
    as noise. NaN for a single prompt.
    """

    mean: Float[Tensor, ""]
    std_error: Float[Tensor, ""]
    std_error_over_prompts: Float[Tensor, ""]


def particle_mean(
    values: Float[Tensor, "p n"], log_w: Float[Tensor, "p n"] | None = None
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Compute mean_p = sum_n w_pn r_pn of each prompt, and its delta-method variance

    var_p = sum_n w_pn^2 (r_pn - mean_p)^2 / (1 - sum_n w_pn^2),

    which for equal weights is the usual s^2 / N; NaN where one particle has all the weight, up to
    rounding. Values of weight zero, infinite ones too, do not count; a value of -inf that does
    makes the mean -inf.
    """
    values = values.double()
    w = normalized(torch.zeros_like(values) if log_w is None else log_w)
    mean = torch.where(w == 0, 0.0, w * values).sum(-1)
    mass = pair_mass(w)
    variance = torch.where(w == 0, 0.0, w * (values - mean[:, None])).square().sum(-1) / mass
    return mean, torch.where(mass > MIN_PAIR_MASS, variance, torch.nan)


def over_prompts(mean: Float[Tensor, " p"], variance: Float[Tensor, " p"]) -> Estimate:
    """Average over prompts, with std_error = sqrt(sum_p var_p) / P."""
    between = mean.std(correction=1) if len(mean) > 1 else mean.new_tensor(torch.nan)
    return Estimate(mean.mean(), variance.sum().sqrt() / len(mean), between / len(mean) ** 0.5)


class PromptMean(Metric, ABC):
    """The mean of a number per particle; the `update` of a subclass passes these numbers to `add`.

    Attributes:
        latest: the numbers of the last update (P, N), which are not gathered over processes.

    Args:
        metric: settings of torchmetrics' Metric, such as sync_on_compute=False for one that stays
            in its process.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    means: list[Tensor]
    variances: list[Tensor]

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        self.set_dtype(torch.float64)  # the dtype in which an empty rank takes part in a gather
        self.add_state("means", [], dist_reduce_fx="cat")
        self.add_state("variances", [], dist_reduce_fx="cat")
        self.latest: Tensor | None = None

    def add(self, values: Float[Tensor, "p n"], log_w: Float[Tensor, "p n"] | None) -> None:
        """Add prompts, each with all its particles."""
        mean, variance = particle_mean(values, log_w)
        self.means.append(mean)
        self.variances.append(variance)
        self.latest = values

    def compute(self) -> Estimate:
        """Compute mean and standard errors over prompts. Raises ValueError before any prompt."""
        if len(self.means) == 0:
            raise ValueError("expected samples, got none; call update(x) first")
        return over_prompts(dim_zero_cat(self.means), dim_zero_cat(self.variances))
