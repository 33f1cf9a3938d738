"""steer: train flow maps, steer them with a reward while they sample, and tune them to it.

`import steer` needs torch alone; training loops, data sets, metrics, plots and tuning load what
they need when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steer import analytic, counting, guidance, lookahead, maps, progress, resampling, samplers
from steer.checkpoint import load
from steer.conditions import Condition
from steer.flow_map import FlowMap, OdeMap, ResidualMap
from steer.interpolant import Linear, Schedule, Trigonometric, VariancePreserving
from steer.maps.consistency import ConsistencyMap
from steer.maps.rescheduled import Rescheduled
from steer.tilt import NonFiniteReward, Tilt
from steer.value import Value

if TYPE_CHECKING:
    from steer import adapters, data, hub, loops, metrics, networks, plots, training, tuning

LATER = ("adapters", "data", "hub", "loops", "metrics", "networks", "plots", "training", "tuning")


def __getattr__(name: str) -> Any:
    if name in LATER:
        return importlib.import_module(f"steer.{name}")
    raise AttributeError(f"module 'steer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Condition",
    "ConsistencyMap",
    "FlowMap",
    "Linear",
    "NonFiniteReward",
    "OdeMap",
    "Rescheduled",
    "ResidualMap",
    "Schedule",
    "Tilt",
    "Trigonometric",
    "Value",
    "VariancePreserving",
    "adapters",
    "analytic",
    "counting",
    "data",
    "guidance",
    "hub",
    "load",
    "lookahead",
    "loops",
    "maps",
    "metrics",
    "networks",
    "plots",
    "progress",
    "resampling",
    "samplers",
    "training",
    "tuning",
]
