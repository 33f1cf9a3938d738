"""Real models as flow maps: they are what the library's own pipelines sample and decode.

Each pipeline runs whole, on the same noise and embeddings.
"""

import warnings
from itertools import pairwise

import pytest
import torch
from tiny import FAMILIES, PROMPTS, Tiny

TOLERANCE = 1e-5
KNOWN: dict[str, Tiny] = {}


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each model is made once."""
    if request.param not in KNOWN:
        KNOWN[request.param] = FAMILIES[request.param]()
    return KNOWN[request.param]


@pytest.fixture(autouse=True)
def jumps_allowed():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*predicts velocities alone")
        yield


def noise_for(flow_map, tiny: Tiny, seed: int = 3) -> torch.Tensor:
    shape = flow_map.latent_shape(tiny.size, tiny.size)
    return torch.randn(PROMPTS, *shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stepped(flow_map, x: torch.Tensor, times: list[float], cond) -> torch.Tensor:
    """The jumps through these times, renoised in between by a consistency model."""
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


def test_jumps_are_the_steps_of_the_library(tiny: Tiny):
    flow_map = tiny.flow_map()
    noise = noise_for(flow_map, tiny)
    theirs, times = tiny.sample(noise)
    if flow_map.network.name == "TCD":  # its last step ends at step 0
        times = [*times, 1 - 1 / 1000]
    ours = stepped(flow_map, noise, times, tiny.cond)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_decoded_images_are_those_of_the_library(tiny: Tiny):
    flow_map = tiny.flow_map()
    latents = noise_for(flow_map, tiny)
    ours = flow_map.decode(latents)
    assert ours.shape == (PROMPTS, 3, tiny.size, tiny.size)
    torch.testing.assert_close(ours.clamp(0, 1), tiny.images(latents), atol=TOLERANCE, rtol=0)
