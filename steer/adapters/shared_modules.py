"""Modules beside the transformer of a real model: decoder, text encoders and tokenizers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Shared"]


class Shared:
    """Modules that a network uses and does not own: frozen, not trained, saved or copied with it.

    A deep copy of the network, as tuning makes of its base, has the same ones.

    Args:
        modules: by name; None is left out.

    Attributes:
        away: where modules wait while they are not in use; None leaves them beside the network.
    """

    def __init__(self, **modules: Any):
        self.modules = {name: module for name, module in modules.items() if module is not None}
        self.away: torch.device | None = None
        for module in self.modules.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()

    def offload(self, away: str = "cpu") -> None:
        """Sends all modules away, to be on the network's device while they are used."""
        self.away = torch.device(away)
        for module in self.modules.values():
            if isinstance(module, nn.Module):
                module.to(self.away)

    @contextmanager
    def used(self, names: Iterable[str], device: torch.device) -> Iterator[None]:
        """Modules of these names are on the device inside the `with`, if they are kept away.

        A graph that is recorded inside keeps their weights there until it is freed.
        """
        found = [self.modules[name] for name in names if name in self.modules]
        moved = [module for module in found if isinstance(module, nn.Module)]
        if self.away is None:
            yield
            return
        try:
            for module in moved:
                module.to(device)
            yield
        finally:
            for module in moved:
                module.to(self.away)

    def __deepcopy__(self, memory: dict[int, Any]) -> "Shared":
        return self

    def __getitem__(self, name: str) -> Any:
        return self.modules.get(name)

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Applies a function to all tensors, as `Module.to` does; not to those kept away."""
        if self.away is not None:
            return
        for module in self.modules.values():
            if isinstance(module, nn.Module):
                module._apply(function)
