"""Metrics of samples (torchmetrics), each beside the pure function it accumulates.

A function with the name of its file is imported from there: `from steer.metrics.grid_kl import
grid_kl`.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
