"""Samplers: sampler(flow_map, x0, tilt=None, cond=None, generator=None) -> Result, one method per file."""

from steer.samplers import training_free
from steer.samplers.base import Result, Run, Sampler, Stepwise
from steer.samplers.beam_search import BeamSearch
from steer.samplers.best_of_n import BestOfN
from steer.samplers.best_of_rounds import BestOfRounds
from steer.samplers.fk_steering import FkSteering
from steer.samplers.flow_map_reward_guidance import FlowMapRewardGuidance
from steer.samplers.jump import Jump
from steer.samplers.levels import Rising, Tempering
from steer.samplers.noise_optimisation import NoiseOptimisation
from steer.samplers.ode import Ode
from steer.samplers.plug_and_play import Decaying, Matched, PlugAndPlay
from steer.samplers.population import Search
from steer.samplers.rollover_budget import RolloverBudgetForcing
from steer.samplers.sde import Sde
from steer.samplers.svdd import Svdd
from steer.samplers.training_free_guidance import TrainingFreeGuidance
from steer.samplers.trajectory_tilting import TrajectoryTilting
from steer.samplers.twisted import das, tds
from steer.samplers.value_guided import ValueGuided
from steer.samplers.value_smc import ValueSmc
from steer.samplers.weighting import PathWeights, ReversalWeights, TransitionWeights

__all__ = [
    "BeamSearch",
    "BestOfN",
    "BestOfRounds",
    "Decaying",
    "FkSteering",
    "FlowMapRewardGuidance",
    "Jump",
    "Matched",
    "NoiseOptimisation",
    "Ode",
    "PathWeights",
    "PlugAndPlay",
    "Result",
    "ReversalWeights",
    "Rising",
    "RolloverBudgetForcing",
    "Run",
    "Sampler",
    "Sde",
    "Search",
    "Stepwise",
    "Svdd",
    "Tempering",
    "TrainingFreeGuidance",
    "TrajectoryTilting",
    "TransitionWeights",
    "ValueGuided",
    "ValueSmc",
    "das",
    "tds",
    "training_free",
]
