"""Networks as they are after some training."""

import torch


def shaken(network):
    """Move every parameter off its initial value, as zeros hide the layers before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * 0.2
                + (p.ndim == 1 and bool((p == 1).all()))
            )
    return network.double()
