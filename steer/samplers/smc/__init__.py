"""Sequential Monte Carlo: weighted particles along a guided or unguided chain."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
