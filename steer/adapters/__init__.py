"""Real models: transformers and decoders of diffusers as flow maps on latents, one family a file.

They need the extra [diffusers]; nothing of it is imported before a model is built.
"""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
