"""Data sets. Importing this reads none of them, and loads Lightning only for the data modules."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
