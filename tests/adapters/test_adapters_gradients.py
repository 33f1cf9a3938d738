"""Derivatives through real models: map, decoder and reward, in both modes, with recomputation."""

import copy
import warnings

import pytest
import torch
from tiny import FAMILIES, Tiny

IN_DOUBLE = {"lcm", "tcd"}  # the classes of the others compute a part in float32, whatever x is
# of the differences; small where all is in float64, or where the decoder bends sharply
STEPS = {"lcm": 1e-3, "tcd": 1e-3, "wan": 4e-3, "anyflow": 4e-3, "sana_sprint": 1e-3}
KNOWN: dict[str, Tiny] = {}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def jumps_allowed():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*predicts velocities alone")
        yield


def in_double(name: str, **options):
    """The flow map of a model in float64, a sample of noise and its condition."""
    if name not in KNOWN:
        KNOWN[name] = FAMILIES[name]()
    tiny = copy.deepcopy(KNOWN[name])
    flow_map = tiny.flow_map(**options).double()
    generator = torch.Generator().manual_seed(2)
    shape = (2, *flow_map.latent_shape(tiny.size, tiny.size))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    return flow_map, x, direction / direction.norm(), tiny.cond.to("cpu", torch.float64)


def reward(images: torch.Tensor) -> torch.Tensor:
    """A smooth number of each image."""
    return torch.sin(3 * images).flatten(1).mean(1) * 100


def test_gradient_through_map_decoder_and_reward_is_that_of_differences(name: str):
    flow_map, x, _, cond = in_double(name)

    def value(x):
        return reward(flow_map.decode(flow_map.lookahead(x, 0.26, cond))).sum()

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    size = gradient.norm()
    h = STEPS.get(name, 2e-2)

    @torch.no_grad()
    def across(step: float) -> torch.Tensor:
        return value(x + step * gradient / size) - value(x - step * gradient / size)

    found = (8 * across(h) - across(2 * h)) / (12 * h)  # of fourth order
    torch.testing.assert_close(found, size, rtol=1e-7 if name in IN_DOUBLE else 1e-3, atol=0)


def test_forward_mode_agrees_with_reverse_mode(name: str):
    flow_map, x, direction, cond = in_double(name)

    def landing(x):
        return flow_map.lookahead(x, 0.26, cond)

    _, tangent = torch.func.jvp(landing, (x,), (direction,))
    x.requires_grad_()
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    (gradient,) = torch.autograd.grad((landing(x) * along).sum(), x)
    found, expected = (tangent * along).sum(), (gradient * direction).sum()
    tolerance = 1e-10 if name in IN_DOUBLE else 1e-6
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_recomputed_gradients_are_the_same(name: str):
    found = []
    for recompute in (False, True):
        flow_map, x, _, cond = in_double(name, recompute=recompute, decode_batch=1, max_batch=1)
        x.requires_grad_()
        value = reward(flow_map.decode(flow_map.lookahead(x, 0.26, cond))).sum()
        found.append(torch.autograd.grad(value, x)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
