"""Objectives that learn a flow map: one notion, one file.

`Joint` adds a diagonal and an off-diagonal one and says who is believed (`teachers`); `zoo` lists the literature's names.
"""

from steer.training.alpha_flow import AlphaFlow, FixedAlpha, SigmoidAlpha
from steer.training.base import Card, Held, Loss, Objective, PairObjective, Pairs, Residuals
from steer.training.consistency import AlongFlow, AnnealedStride, Consistency, GridStride, SamePair
from steer.training.couplings import OptimalTransport
from steer.training.ctm import TwoLegs
from steer.training.derivatives import Derivative, FiniteDifference, ForwardMode
from steer.training.eulerian import AverageEulerian, Eulerian, ImprovedMeanFlow, MeanFlow
from steer.training.flow_map_matching import FlowMapMatching
from steer.training.flow_matching import FlowMatching
from steer.training.gradient_check import Comparison, WrongGradient, check_gradient
from steer.training.imm import MomentMatching
from steer.training.joint import Joint
from steer.training.lagrangian import AverageLagrangian, Lagrangian
from steer.training.perceptual import Perceptual
from steer.training.posterior import Posterior
from steer.training.semigroup import Semigroup
from steer.training.teachers import Average, Frozen, Own, Teacher
from steer.training.times import (
    AnyPair,
    Dyadic,
    Grouped,
    LogitNormal,
    Mixture,
    OnGrid,
    PairLaw,
    SortedPair,
    TimeLaw,
    ToData,
    Uniform,
)
from steer.training.trajectory import Trajectory
from steer.training.velocity_matching import VelocityMatching
from steer.training.weightings import Adaptive, Learned, Plain, Weighting
from steer.training.zoo import METHODS, named

__all__ = [
    "METHODS",
    "Adaptive",
    "AlongFlow",
    "AlphaFlow",
    "AnnealedStride",
    "AnyPair",
    "Average",
    "AverageEulerian",
    "AverageLagrangian",
    "Card",
    "Comparison",
    "Consistency",
    "Derivative",
    "Dyadic",
    "Eulerian",
    "FiniteDifference",
    "FixedAlpha",
    "FlowMapMatching",
    "FlowMatching",
    "ForwardMode",
    "Frozen",
    "GridStride",
    "Grouped",
    "Held",
    "ImprovedMeanFlow",
    "Joint",
    "Lagrangian",
    "Learned",
    "LogitNormal",
    "Loss",
    "MeanFlow",
    "Mixture",
    "MomentMatching",
    "Objective",
    "OnGrid",
    "OptimalTransport",
    "Own",
    "PairLaw",
    "PairObjective",
    "Pairs",
    "Perceptual",
    "Plain",
    "Posterior",
    "Residuals",
    "SamePair",
    "Semigroup",
    "SigmoidAlpha",
    "SortedPair",
    "Teacher",
    "TimeLaw",
    "ToData",
    "Trajectory",
    "TwoLegs",
    "Uniform",
    "VelocityMatching",
    "Weighting",
    "WrongGradient",
    "check_gradient",
    "named",
]
