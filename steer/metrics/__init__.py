"""How far the result is from the law it promised: torchmetrics Metrics, each beside the pure function it accumulates.

A function that bears the name of its file is imported from there: `from steer.metrics.grid_kl import grid_kl`.
"""

from steer.metrics.class_agreement import ClassAgreement
from steer.metrics.diversity import PairwiseDiversity, cosine_diversity, euclidean_diversity
from steer.metrics.energy_distance import EnergyDistance
from steer.metrics.estimate import Estimate, prompt_mean
from steer.metrics.floor import sampling_floor
from steer.metrics.frechet import FrechetDistance, frechet_distance
from steer.metrics.grid_kl import GridKl, cell_frequencies
from steer.metrics.heldout import HeldoutReward
from steer.metrics.mmd import MaximumMeanDiscrepancy
from steer.metrics.sliced_wasserstein import SlicedWasserstein

__all__ = [
    "ClassAgreement",
    "EnergyDistance",
    "Estimate",
    "FrechetDistance",
    "GridKl",
    "HeldoutReward",
    "MaximumMeanDiscrepancy",
    "PairwiseDiversity",
    "SlicedWasserstein",
    "cell_frequencies",
    "cosine_diversity",
    "euclidean_diversity",
    "frechet_distance",
    "prompt_mean",
    "sampling_floor",
]
