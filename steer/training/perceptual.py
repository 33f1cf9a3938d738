"""A perceptual distance of images, by a network's activations.

    d(x, y) = sum over layers of the mean over places of
              |phi_l(x) / |phi_l(x)| - phi_l(y) / |phi_l(y)||^2,

phi_l being the channels of layer l at a place. It is sensitive to the blur that a squared error of
pixels prefers. This is LPIPS without its learned weights of channels, on any network.

Reference: Zhang et al. 2018, arXiv 1801.03924; as the metric of a consistency model, Song et al.
2023, arXiv 2303.01469.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Perceptual"]

EPS = 1e-6  # under the root of a squared length


class Perceptual:
    """d(x, y) (B,) for images (B, C, H, W), with gradients in both.

    It is computed in the network's own precision, also under autocast.

    Args:
        network: of images; it is frozen, and moved to where the images are.
        layers: names of its submodules whose outputs (B, channels, h, w) count, as `named_modules`
            has them.
        decode: from the map's samples to the network's images, such as rewards.from_signed; a
            module is frozen and moved.

    Raises:
        ValueError: a layer that the network does not have or that is named twice; and when called,
            one that it does not pass through, or that puts out no channels at places.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        decode: Callable[[Tensor], Tensor] | None = None,
    ):
        known = dict(network.named_modules())
        listed = [] if isinstance(layers, str) else list(layers)
        if not listed or len(set(listed)) < len(listed) or not known.keys() >= set(listed):
            raise ValueError(
                f"layers is a list of submodules, each once, such as {list(known)[1:6]};"
                f" got {layers!r}"
            )
        self.network = frozen(network)
        self.layers = tuple(listed)
        self.decode = decode
        if isinstance(decode, nn.Module):
            frozen(decode)

    def __call__(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b"]:
        with torch.autocast(x.device.type, enabled=False):
            pairs = zip(self.activations(x), self.activations(y), strict=True)
            distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]
            return torch.stack(distances).sum(0)

    def activations(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """Computes the activations of every layer, the channels of a place scaled to length one."""
        seen: dict[str, Tensor] = {}
        modules = dict(self.network.to(x.device).named_modules())
        hooks = [
            modules[name].register_forward_hook(partial(note, seen, name)) for name in self.layers
        ]
        try:
            self.network(self.decoded(x))
        finally:
            for hook in hooks:
                hook.remove()
        if missed := [name for name in self.layers if name not in seen]:
            raise ValueError(f"the network does not pass through its layers {missed}; name others")
        if flat := {name: tuple(out.shape) for name, out in seen.items() if out.ndim != 4}:
            raise ValueError(f"layers put out (B, channels, h, w) each; got {flat}: name others")
        outputs = [seen[name] for name in self.layers]
        return [out / (out.square().sum(1, keepdim=True) + EPS).sqrt() for out in outputs]

    def decoded(self, x: Tensor) -> Tensor:
        """Converts samples to the network's images, in its precision."""
        if isinstance(self.decode, nn.Module):
            self.decode.to(x.device)
        own = next((p.dtype for p in self.network.parameters()), torch.float32)
        return x.to(own) if self.decode is None else self.decode(x.to(own))


def frozen(network: nn.Module) -> nn.Module:
    """Freezes a network in eval mode, in place."""
    return network.requires_grad_(False).eval()


def note(seen: dict[str, Tensor], name: str, module: nn.Module, given: Any, out: Tensor) -> None:
    """Keeps what a layer puts out, before an in-place layer behind it writes over it (a hook)."""
    seen[name] = out.clone()
