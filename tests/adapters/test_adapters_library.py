"""Real models as flow maps: they are what the library's own pipelines sample and decode.

Each pipeline runs whole, on the same noise and embeddings.
"""

import warnings

import pytest
import torch
from measure import noise_for, stepped
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


def test_jumps_are_the_steps_of_the_library(tiny: Tiny):
    flow_map = tiny.flow_map()
    noise = noise_for(flow_map, tiny)
    theirs, times = tiny.sample(noise)
    ours = stepped(flow_map, noise, times, tiny.cond)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_decoded_images_are_those_of_the_library(tiny: Tiny):
    flow_map = tiny.flow_map()
    latents = noise_for(flow_map, tiny)
    ours = flow_map.decode(latents)
    assert ours.shape == (PROMPTS, 3, tiny.size, tiny.size)
    torch.testing.assert_close(ours.clamp(0, 1), tiny.images(latents), atol=TOLERANCE, rtol=0)
