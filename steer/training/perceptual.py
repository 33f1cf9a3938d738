"""A distance of images by a network's activations: what a squared error of pixels blurs, it still sees.

    d(x, y) = sum over layers of the mean over places of |phi_l(x) / |phi_l(x)| - phi_l(y) / |phi_l(y)||^2,

phi_l being the channels of layer l at a place. This is LPIPS without its learned weights of channels, on any network.

Reference: Zhang et al. 2018, arXiv 1801.03924; as the metric of a consistency model, Song et al. 2023, arXiv 2303.01469.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6  # under the root of a squared length


class Perceptual:
    """d(x, y) (B,) for images (B, C, H, W), with gradients in both; computed in float32, whatever autocast says.

    Args:
        network: of images; it is frozen, and moved to where the images are.
        layers: names of its submodules whose outputs (B, channels, h, w) count, as `named_modules` has them.
        decode: from the map's samples to the network's images, such as rewards.from_signed.

    Raises:
        ValueError: a layer that the network does not have, or, when first called, that it does not pass through.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], decode: Callable[[Tensor], Tensor] | None = None):
        known = dict(network.named_modules())
        strange = [name for name in layers if name not in known]
        if strange or not layers:
            raise ValueError(f"layers are names of submodules, such as {list(known)[1:6]}; got {strange}")
        self.network, self.layers, self.decode = network.requires_grad_(False).eval(), tuple(layers), decode
        self.seen: dict[str, Tensor] = {}
        for name in layers:
            known[name].register_forward_hook(lambda _, __, out, name=name: self.seen.__setitem__(name, out))

    def __call__(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        with torch.autocast(x.device.type, enabled=False):
            ours, theirs = self.activations(x.float()), self.activations(y.float())
            return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(ours, theirs, strict=True)]).sum(0)

    def activations(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """Of every layer, the channels of a place scaled to length one."""
        self.seen.clear()
        self.network.to(x.device)(x if self.decode is None else self.decode(x))
        if missed := [name for name in self.layers if name not in self.seen]:
            raise ValueError(f"the network does not pass through its layers {missed}; name others")
        return [out / (out.square().sum(1, keepdim=True) + EPS).sqrt() for out in map(self.seen.pop, self.layers)]
