"""Laws in closed form: Gaussian mixtures whose velocity, score, posterior and tilt are known, and
benchmarks made of them.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
