"""Look-aheads: where a noisy sample x_t will land, as weighted guesses of the clean sample."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
