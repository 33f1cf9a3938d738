"""Noise optimisation where the optimum is known: standard normal data, whose flow map leaves every
point where it is.
"""

import pytest
import torch
from ball import Ball
from zoo import noise

from rewards import JpegSize
from rewards import Linear as LinearReward
from steer.flow_map import OdeMap
from steer.samplers import NoiseOptimisation
from steer.solvers import Euler
from steer.tilt import Tilt

A = [0.6, -0.8]  # a unit vector


@pytest.mark.parametrize(
    "scale", [1.0, torch.tensor([0.5, -2.0])], ids=["one scale", "one per prompt"]
)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_linear_reward_is_climbed_to_where_the_prior_holds_it(scale, momentum):
    """scale a + prior ((d - 1) / |z|^2 - 1) z = 0: z along a, of length rho with prior (rho - (d -
    1) / rho) = |scale|.
    """
    prior, x0 = 0.7, noise(2, 5, 2)
    sampler = NoiseOptimisation(
        800, lr=0.05, prior=prior, momentum=momentum, clip=None, keep_best=False
    )
    result = sampler(Ball(), x0, Tilt(LinearReward(A), scale))
    pull = torch.as_tensor(scale, dtype=torch.float64).expand(2) / prior
    length = (pull.abs() + torch.sqrt(pull**2 + 4)) / 2
    expected = pull.sign()[:, None] * length[:, None] * torch.tensor(A, dtype=torch.float64)
    torch.testing.assert_close(result.x, expected[:, None].expand(2, 5, 2), rtol=1e-5, atol=1e-5)
    assert result.log_z is None


def test_the_prior_alone_brings_noise_to_its_likeliest_length():
    x0 = 3 * noise(1, 6, 10)
    sampler = NoiseOptimisation(400, lr=0.05, prior=1.0, momentum=0.0, clip=None, keep_best=False)
    result = sampler(Ball(), x0, Tilt(lambda x: 0 * x.sum(1)))
    torch.testing.assert_close(
        result.x.norm(dim=2), torch.full((1, 6), 3.0, dtype=torch.float64)
    )  # sqrt(d - 1)
    torch.testing.assert_close(
        result.x / result.x.norm(dim=2, keepdim=True), x0 / x0.norm(dim=2, keepdim=True)
    )


def test_a_clipped_step_has_its_length_and_every_particle_its_own():
    """One plain step along gradients of norm 3, which is clipped to .1, and .05, which is not."""
    x0, scale = (
        torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64),
        torch.tensor([3.0, 0.05]),
    )
    sampler = NoiseOptimisation(1, lr=2.0, prior=0.0, momentum=0.0, clip=0.1, keep_best=False)
    moved = sampler(Ball(), x0, Tilt(LinearReward([1.0, 0.0]), scale)).x - x0
    expected = torch.tensor([[[0.2, 0.0]], [[0.1, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-7)


def test_the_best_end_is_kept_and_the_last_if_asked():
    """Steps far too long overshoot a hill: the best end is the one nearest to its top, not the
    last.
    """
    x0 = noise(1, 8, 2)
    ends = {}
    for keep in (True, False):
        sampler = NoiseOptimisation(7, lr=40.0, prior=0.0, momentum=0.0, keep_best=keep)
        ends[keep] = sampler(Ball(), x0, Tilt(lambda x: -x.square().sum(1)))
    assert (ends[True].tilt >= ends[False].tilt).all()
    assert (ends[True].tilt > ends[False].tilt + 0.1).any()
    assert torch.equal(ends[False].trace["reward"][-1], ends[False].tilt.mean(1))


def test_more_jumps_climb_through_more_of_the_flow():
    """Euler's step from the tangent lands elsewhere than many: the optimum moves with the jumps,
    and so do the evaluations.
    """
    coarse = OdeMap(Ball(), Ball().schedule, steps=1, solver=Euler())
    x0, tilt = noise(1, 4, 2), Tilt(LinearReward(A))
    one, four = (NoiseOptimisation(5, jumps, prior=0.5)(coarse, x0, tilt) for jumps in (1, 4))
    assert (one.evaluations.network_forward, one.evaluations.network_backward) == (6, 5)
    assert (four.evaluations.network_forward, four.evaluations.network_backward) == (24, 20)
    assert not torch.allclose(one.x, four.x)


def test_refusals():
    x0 = torch.rand(1, 2, 1, 8, 8)
    with pytest.raises(ValueError, match="follows a reward; pass tilt="):
        NoiseOptimisation()(Ball(), x0)
    with pytest.raises(ValueError, match=r"JpegSize has no gradient .* use BestOfN or FkSteering"):
        NoiseOptimisation()(Ball(), x0, Tilt(JpegSize()))
    with pytest.raises(ValueError, match=r"momentum in \[0, 1\); got .*momentum=1"):
        NoiseOptimisation(momentum=1)
