"""Objectives that learn a flow map: one identity a file.

`Joint` adds an objective on the diagonal and one off it, with their target networks
(`target_networks`); `presets` builds the methods of the literature by name.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
