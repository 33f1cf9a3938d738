"""Objectives that learn a flow map. One notion, one file; `Joint` adds a diagonal and an off-diagonal one."""

from steer.training.base import Joint, LogitNormal, Loss, Objective, PairObjective, SortedPair, TimeLaw, Uniform
from steer.training.eulerian import MeanFlow
from steer.training.flow_matching import FlowMatching
from steer.training.lagrangian import Lagrangian
from steer.training.semigroup import Semigroup

__all__ = [
    "FlowMatching",
    "Joint",
    "Lagrangian",
    "LogitNormal",
    "Loss",
    "MeanFlow",
    "Objective",
    "PairObjective",
    "Semigroup",
    "SortedPair",
    "TimeLaw",
    "Uniform",
]
