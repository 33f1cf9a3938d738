"""Samplers: sampler(flow_map, x0, tilt=None, cond=None, generator=None) -> Result, one method per
file.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
