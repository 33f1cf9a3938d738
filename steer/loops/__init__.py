"""Training and tuning as Lightning loops; with data/, the only room that knows Lightning."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
