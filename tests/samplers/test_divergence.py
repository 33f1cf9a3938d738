"""Samples that run away are told of in Python: once, naming sampler, sample, time and size; samples
that do not are not.
"""

import re

import pytest
import torch
from ball import Ball
from zoo import BUILD, noise, seeded

from rewards import Quadratic
from steer.samplers import (
    BestOfN,
    FlowMapRewardGuidance,
    NoiseOptimisation,
    PathWeights,
    Sde,
    TrajectoryTilting,
)
from steer.samplers.divergence import FAR, Divergence
from steer.samplers.training_free import dps
from steer.tilt import Tilt

STEEP = Tilt(Quadratic([1.0, 0.0], 3.0), torch.tensor([0.0, 1e6]))


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (dps(6, rho=1.0, norm=None), "TrainingFreeGuidance"),
        (TrajectoryTilting(6, resample_below=0.0, weighting=PathWeights()), "TrajectoryTilting"),
        (FlowMapRewardGuidance(6, adam=False), "FlowMapRewardGuidance"),
        (NoiseOptimisation(6, clip=None), "NoiseOptimisation"),
        (BestOfN(dps(6, rho=1.0, norm=None)), "TrainingFreeGuidance"),
    ],
    ids=["dps", "fmtt", "fmrg", "noise", "best of dps"],
)
@pytest.mark.filterwarnings("ignore::steer.samplers.smc.degeneracy.WeightDegeneracy")
def test_what_runs_away_is_told_of_once(sampler, name):
    """The second of two prompts of four is steered a million times too hard."""
    with pytest.warns(Divergence) as caught:
        sampler(Ball(), noise(2, 4, 2), STEEP, None, seeded())
    (warning,) = (str(w.message) for w in caught if issubclass(w.category, Divergence))
    found = re.match(rf"{name}: sample (\d+) reaches ([\d.e+]+) at t = ([\d.]+) ", warning)
    assert int(found[1]) in range(4, 8)
    assert float(found[2]) > FAR
    assert 0 < float(found[3]) <= 1
    assert "lower tilt.scale or the sampler's strength, or take more steps" in warning


def test_sample_time_and_size_are_those_of_the_first():
    """One step of Euler-Maruyama from s = .5 of noise level 1e12 on a sample; before it none."""
    sampler = Sde(2, eps=lambda s: 0.0 if s == 0 else 1e12)
    with pytest.warns(Divergence, match=r"^Sde: sample 0 reaches [\d.e+]+ at t = 1 \("):
        result = sampler(Ball(), noise(1, 3, 2), None, None, seeded())
    assert result.x.isfinite().all()


def test_noise_and_data_far_from_one_are_no_divergence(recwarn):
    """What counts is how far samples are out beside the noise."""

    class Wide(Ball):
        def velocity(self, x, t, cond=None):
            return super().velocity(x, t, cond)

    dps(4, rho=0.1)(Wide(), 1e5 * noise(1, 4, 2), Tilt(Quadratic([0.0, 0.0], 1.0)), None, seeded())
    assert not [w for w in recwarn if issubclass(w.category, Divergence)]


@pytest.mark.parametrize("name", BUILD)
def test_no_sampler_warns_of_what_is_well(name, recwarn):
    BUILD[name]()(Ball(), noise(2, 4, 2), Tilt(Quadratic([0.5, 0.0], 0.5)), None, seeded())
    assert not [w for w in recwarn if issubclass(w.category, Divergence)]
