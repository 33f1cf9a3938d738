"""Gaussian mixtures with velocity, score, posterior and tilt in closed form, and benchmarks."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
