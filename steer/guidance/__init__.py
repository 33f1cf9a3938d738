"""Corrections to the velocity, one method per file. A guided flow map is a flow map, so samplers
need not know.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
