"""Objectives that tune a flow map to a reward, and low-rank adapters to tune; one paper a file.

objective(flow_map, base, tilt, x0, cond, generator, step) -> Loss
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
