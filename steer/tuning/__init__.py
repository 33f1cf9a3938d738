"""Objectives that tilt a map: objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss,
one paper per file.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
