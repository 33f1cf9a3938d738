"""rewards: functions of samples, one number each; images in [0, 1] or points of the plane."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
