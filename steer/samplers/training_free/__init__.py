"""Training-free guidance: one algorithm (TFG), and the published methods as its settings."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
