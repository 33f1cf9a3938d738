"""Flow maps from other models: consistency and two-time models, predictions, other conventions."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
