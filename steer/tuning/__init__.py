"""Objectives that tilt a map: objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss, one paper per file."""

from steer.tuning.direct import Direct
from steer.tuning.lora import add_lora, without_lora
from steer.tuning.objective import TuningObjective

__all__ = ["Direct", "TuningObjective", "add_lora", "without_lora"]
