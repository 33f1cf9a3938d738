"""Prints the table of docs/real_models.md: python tests/adapters/measure.py.

Each family's tiny random model is sampled by the library's own pipeline and by its adapter from the
same noise and embeddings, and decoded by both.
"""

import warnings
from itertools import pairwise

import torch
from tiny import FAMILIES, PROMPTS, Tiny
from torch import Tensor

import steer


@torch.no_grad()
def stepped(flow_map, x: Tensor, times: list[float], cond) -> Tensor:
    """The jumps through these times, renoised in between by a consistency model."""
    if flow_map.network.name == "TCD":
        times = [*times, 1 - 1 / 1000]  # where its library's last step ends
    if flow_map.level != "consistency":
        for s, t in pairwise(times):
            x = flow_map(x, s, t, cond)
        return x
    generator = torch.Generator().manual_seed(5)
    clean = x
    for s, t in zip(times, [*times[1:], 1.0], strict=False):
        clean = flow_map(x, s, 1.0, cond)
        noise = torch.randn(x.shape, generator=generator)
        x = flow_map.schedule.interpolate(noise, clean, t)
    return clean


def noise_for(flow_map, tiny: Tiny, seed: int = 3) -> Tensor:
    """Noise for both prompts."""
    shape = flow_map.latent_shape(tiny.size, tiny.size)
    return torch.randn(PROMPTS, *shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def row(tiny: Tiny) -> str:
    """Level, differences in samples and images, and evaluations of a look-ahead."""
    flow_map = tiny.flow_map()
    noise = noise_for(flow_map, tiny)
    theirs, times = tiny.sample(noise)
    ours = stepped(flow_map, noise, times, tiny.cond)
    samples = (ours - theirs).abs().max() / theirs.std()
    images = (flow_map.decode(theirs).clamp(0, 1) - tiny.images(theirs)).abs().max()
    with steer.counting.count() as spent:
        flow_map.lookahead(noise, 0.3, tiny.cond)
    ahead = spent.network_forward / len(noise)
    kind = type(tiny.modules["transformer"]).__name__
    name, guidance = flow_map.network.name, flow_map.network.kind
    return (
        f"{name:18s} {kind:32s} {flow_map.level:12s} {guidance:16s} {samples:8.1e} {images:8.1e}"
        f" {ahead:3.0f}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for make in FAMILIES.values():
        print(row(make()))
