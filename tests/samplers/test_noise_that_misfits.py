"""Noise of another precision or shape than the map takes is refused in one line with the remedy."""

import pytest
import torch

import steer
from steer.networks import Mlp, UNet
from steer.samplers import BestOfN, Jump, Ode, Sde, TrajectoryTilting

SAMPLERS = [Jump(1), Ode(2), Sde(2), TrajectoryTilting(2), BestOfN(Ode(2))]


def plane():
    return steer.ResidualMap(Mlp(2, 8, 1), steer.Linear())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_double_noise_for_a_single_map(unchecked, sampler):
    """Both remedies of the message work."""
    x0 = torch.randn(1, 4, 2, dtype=torch.float64)
    tilt = steer.Tilt(lambda x: x[:, 0])
    with pytest.raises(ValueError, match="x0 is float64 and the map's weights are float32") as said:
        sampler(plane(), x0, tilt)
    assert str(said.value) == (
        "x0 is float64 and the map's weights are float32; draw x0 with dtype=torch.float32, or"
        " convert the map with flow_map.to(torch.float64)"
    )
    assert sampler(plane().to(torch.float64), x0, tilt).x.dtype == torch.float64
    assert sampler(plane(), x0.float(), tilt).x.dtype == torch.float32


def test_images_without_the_axis_of_particles(unchecked):
    """They look like prompts of particles of another shape; the message tells how to add it."""
    flow_map = steer.ResidualMap(UNet(1, [8]), steer.Linear())
    x0 = torch.randn(3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"\(prompts, particles, \*shape\)") as said:
        Jump(1)(flow_map, x0)
    assert "here (3, 1, 8, 8); use x0[None] for one prompt" in str(said.value)
    assert "\n" not in str(said.value)
    assert Jump(1)(flow_map, x0[None]).x.shape == (1, 3, 1, 8, 8)
    assert Jump(1)(flow_map, x0[:, None]).x.shape == (3, 1, 1, 8, 8)


def test_other_errors_stay_what_they_are():
    """A reward's own error of types, in the map's precision."""

    def crooked(x):
        return x @ torch.ones(2, dtype=torch.float64)

    with pytest.raises((RuntimeError, ValueError), match=r"dtype|crooked") as said:
        Sde(2)(plane(), torch.randn(1, 4, 2), steer.Tilt(crooked))
    assert "x0 is" not in str(said.value)
