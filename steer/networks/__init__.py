"""Networks u_{s,t}(x): network(x, s, t, cond) -> like x. All are differentiable in forward mode."""

from steer.discovery import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __path__)
