"""Corrections to the velocity, one method a file; a guided flow map is a flow map to samplers."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
