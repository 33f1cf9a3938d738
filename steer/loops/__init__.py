"""Training and tuning loops; with steer.data, the only package that needs Lightning."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
