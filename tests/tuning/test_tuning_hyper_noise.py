"""HyperNoise: a proximal map of the noise, in closed form."""

import pytest
import torch
from gaussian_flows import Parabola, gaussian_map, quantiles
from noise_space import image_map, moved_map, tilted_noise
from toys import linear_map, noise, seeded

from steer.maps import NoiseTilted
from steer.samplers import Jump
from steer.tilt import NonFiniteReward, Tilt
from steer.tuning import HyperNoise

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
WEIGHT = torch.tensor([[0.3, -0.5], [0.2, 0.1]], dtype=torch.float64)


def found(objective, flow_map, base, reward, x0):
    return objective(flow_map, base, Tilt(reward), x0, None, seeded(), 0)


@pytest.mark.parametrize("jumps", [1, 3])
@pytest.mark.parametrize("std", [1.0, 1.8])
def test_it_rests_at_the_proximal_map(std, jumps):
    """Mean of the tilt, standard deviation s / (1 + k s^2), and a loss below -log Z."""
    k, centre, mean = 0.8, 1.5, 0.4
    a, _, log_z = tilted_noise(k, centre, mean, std)
    flow_map, base = moved_map(a, 1 / (1 + k * std**2) - 1, mean, std), gaussian_map(mean, std)
    loss = found(HyperNoise(jumps), flow_map, base, Parabola(k=k, c=centre), quantiles(20_000))
    slopes = torch.autograd.grad(loss.total, list(flow_map.parameters()))
    assert [g.item() for g in slopes] == pytest.approx([0, 0], abs=1e-3)
    assert loss.total < -log_z - 0.05

    product = HyperNoise().product(flow_map, base)
    assert isinstance(product, NoiseTilted)
    draws = Jump()(product, quantiles(5000)[:, None], None, None, seeded()).x[:, 0]
    precision = 1 / std**2 + k
    assert draws.mean().item() == pytest.approx((mean / std**2 + k * centre) / precision, abs=1e-3)
    assert draws.std().item() == pytest.approx(std / (1 + k * std**2), rel=1e-3)


def test_a_linear_reward_is_tilted_exactly():
    """f = s a, at the value -log E exp(a x) = -(a m + s^2 a^2 / 2)."""
    flow_map = moved_map(1.5 * 0.8, 0.0, 0.4, 1.5)
    loss = found(HyperNoise(), flow_map, gaussian_map(0.4, 1.5), Parabola(a=0.8), quantiles(2000))
    assert loss.total.item() == pytest.approx(-(0.8 * 0.4 + 1.5**2 * 0.8**2 / 2), abs=1e-9)
    slopes = torch.autograd.grad(loss.total, list(flow_map.parameters()))
    assert [g.item() for g in slopes] == pytest.approx([0, 0], abs=1e-9)


def test_the_displacement_is_summed_over_dimensions():
    """L = mean 1/2 |W x|^2 - a.(x + W x), and its gradient by hand."""
    flow_map, base = linear_map(WEIGHT), linear_map(0 * WEIGHT)
    x0 = noise(7)
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    loss = found(HyperNoise(), flow_map, base, lambda x: x @ a, x0)
    f = x0 @ WEIGHT.T
    torch.testing.assert_close(loss.total, (f.square().sum(1) / 2 - (x0 + f) @ a).mean())
    (gradient,) = torch.autograd.grad(loss.total, flow_map.network.weight)
    torch.testing.assert_close(gradient, (f - a).T @ x0 / 7)


def test_a_constant_reward_moves_nothing_and_a_constant_changes_nothing():
    flow_map, base = linear_map(WEIGHT), linear_map(WEIGHT)
    weight = flow_map.network.weight
    flat = found(HyperNoise(), flow_map, base, lambda x: 0 * x[:, 0] + 7, noise(50)).total
    assert torch.autograd.grad(flat, weight)[0].abs().max() < 1e-12
    one, other = (
        torch.autograd.grad(
            found(HyperNoise(), flow_map, base, lambda x, c=c: x[:, 0] ** 3 + c, noise(50)).total,
            weight,
        )[0]
        for c in (0.0, 100.0)
    )
    assert one.abs().max() > 0.1
    torch.testing.assert_close(one, other)


def test_images_with_labels():
    flow_map, base = image_map(), image_map().requires_grad_(False)
    x0 = torch.randn(4, 1, 28, 28, generator=seeded())
    labels = torch.tensor([0, 1, 1, 2])
    reward = Tilt(lambda x: x.mean((1, 2, 3)))
    loss = HyperNoise(2)(flow_map, base, reward, x0, labels, seeded(), 3)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow_map.parameters())
    assert all(p.grad is None for p in base.parameters())


def test_a_gradient_that_is_not_finite_names_its_sample():
    flow_map, base = linear_map(WEIGHT), linear_map(WEIGHT)
    x0 = noise(4)
    x0[2] = 0.0
    loss = found(HyperNoise(), flow_map, base, lambda x: x.square().sum(1).sqrt(), x0)
    with pytest.raises(NonFiniteReward, match="sample 2"):
        loss.total.backward()
