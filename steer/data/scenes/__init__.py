"""Captioned scenes: small pictures of a few objects, whose captions can be checked exactly.

`draw_scenes` makes pictures and captions, `read` finds the objects of a picture, and `score`
says what of its caption a picture shows.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
