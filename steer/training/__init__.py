"""Objectives that learn a flow map: one notion, one file.

`Joint` adds a diagonal and an off-diagonal one and says who is believed (`teachers`); `zoo` lists
the literature's names.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
