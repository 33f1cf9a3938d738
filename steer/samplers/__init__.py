"""Samplers: sampler(flow_map, x0, tilt=None, cond=None, generator=None) -> Result, one method per file."""

from steer.samplers.base import Result, Run, Sampler, Stepwise
from steer.samplers.best_of_n import BestOfN
from steer.samplers.fk_steering import FkSteering
from steer.samplers.jump import Jump
from steer.samplers.noise_optimisation import NoiseOptimisation
from steer.samplers.ode import Ode
from steer.samplers.plug_and_play import Decaying, Matched, PlugAndPlay
from steer.samplers.sde import Sde
from steer.samplers.trajectory_tilting import Search, TrajectoryTilting
from steer.samplers.weighting import PathWeights, TransitionWeights

__all__ = [
    "BestOfN",
    "Decaying",
    "FkSteering",
    "Jump",
    "Matched",
    "NoiseOptimisation",
    "Ode",
    "PathWeights",
    "PlugAndPlay",
    "Result",
    "Run",
    "Sampler",
    "Sde",
    "Search",
    "Stepwise",
    "TrajectoryTilting",
    "TransitionWeights",
]
