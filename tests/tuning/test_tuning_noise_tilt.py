"""NoiseTilt: where its loss is least, and what it is there; its determinant and its series."""

import math

import pytest
import torch
from gaussian_flows import Parabola, gaussian_map, quantiles
from noise_space import image_map, moved_map, tilted_noise
from toys import linear_map, noise, seeded

from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.maps import NoiseTilted
from steer.networks import Mlp
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.derivatives import FiniteDifference
from steer.tuning import NoiseTilt

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
M = GaussianMixture([[-1.5], [1.0]], [[0.4], [0.5]], [0.4, 0.6], steps=32)
REWARD = Quadratic([1.5], 1.0)
GAUSSIANS = [(1.0, 1.5, 0.0, 1.0), (0.5, -1.0, 0.4, 1.8)]  # k, c, m, s


def found(objective, flow_map, base, reward, x0, seed=1):
    return objective(flow_map, base, Tilt(reward), x0, None, seeded(seed), 0)


def slopes(loss, flow_map):
    return [g.item() for g in torch.autograd.grad(loss, list(flow_map.parameters()))]


# --- what the loss is least at ------------------------------------------------------------------
@pytest.mark.parametrize("jumps", [1, 3])
@pytest.mark.parametrize(("k", "centre", "mean", "std"), GAUSSIANS)
def test_on_a_gaussian_the_tilt_is_the_minimum_and_the_loss_is_minus_log_z(
    k, centre, mean, std, jumps
):
    """.9091 for k = 1, c = 1.5 on N(0, 1), at the standard deviation s / sqrt(1 + k s^2)."""
    a, c, log_z = tilted_noise(k, centre, mean, std)
    base = gaussian_map(mean, std)
    reward = Parabola(k=k, c=centre)

    def loss(a, c):
        flow_map = moved_map(a, c, mean, std)
        total = found(NoiseTilt(jumps), flow_map, base, reward, quantiles(10_000)).total
        return total, slopes(total, flow_map)

    least, (d_a, d_c) = loss(a, c)
    assert least.item() == pytest.approx(-log_z, abs=1e-3)
    if mean == 0:
        assert least.item() == pytest.approx(0.9091, abs=1e-3)
    assert d_a == pytest.approx(0, abs=2e-3)
    assert d_c == pytest.approx(0, abs=2e-3)
    below, above = loss(a, 0.95 * (1 + c) - 1)[1][1], loss(a, 1.05 * (1 + c) - 1)[1][1]
    assert below < -0.05 < 0.05 < above


PLACES = torch.linspace(-7, 7, 4001, dtype=torch.float64)


def interpolated(table, x):
    """A function known at PLACES, by straight lines."""
    k = torch.searchsorted(PLACES, x.detach().contiguous()).clamp(1, len(PLACES) - 1)
    rise = (table[k] - table[k - 1]) / (PLACES[k] - PLACES[k - 1])
    return table[k - 1] + rise * (x - PLACES[k - 1])


def transported(landing):
    """The increasing map that carries N(0, 1) to p_0 exp(r(g)), at PLACES, from g there."""
    log_p = -(PLACES**2) / 2 + REWARD(landing[:, None])
    cumulated = torch.cumulative_trapezoid((log_p - log_p.max()).exp(), PLACES)
    share = torch.cat((cumulated.new_zeros(1), cumulated / cumulated[-1]))
    goal = torch.special.ndtr(PLACES)
    k = torch.searchsorted(share, goal).clamp(1, len(PLACES) - 1)
    part = (goal - share[k - 1]) / (share[k] - share[k - 1]).clamp_min(1e-300)
    return PLACES[k - 1] + part.clamp(0, 1) * (PLACES[k] - PLACES[k - 1])


class Tabulated(torch.nn.Module):
    """One jump to a table's values, plus `share` times the displacement of another table."""

    def __init__(self, landing, moved=PLACES, share=0.0):
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(share, dtype=torch.float64))
        self.landing, self.moved = landing, moved

    def forward(self, x, s, t, cond=None):
        f = interpolated(self.moved, x) - x
        return interpolated(self.landing, x) - x + self.share * f


def test_on_a_mixture_the_tilt_is_the_minimum_and_the_loss_is_minus_log_z():
    """f is far from a line there; -log Z is .7067."""
    log_z = M.tilted(REWARD)[1].item()
    with torch.no_grad():
        landing = M(PLACES[:, None], 0.0, 1.0)[:, 0]
    moved = transported(landing)
    base = ResidualMap(Tabulated(landing), Linear())

    def loss(share):
        flow_map = ResidualMap(Tabulated(landing, moved, share), Linear())
        total = found(NoiseTilt(), flow_map, base, REWARD, quantiles(10_000)).total
        return total.item(), slopes(total, flow_map)[0]

    least, slope = loss(1.0)
    assert least == pytest.approx(-log_z, abs=1e-3)
    assert least == pytest.approx(0.7067, abs=1e-3)
    low, high = loss(0.95)[1], loss(1.05)[1]
    assert 0.95 + 0.1 * low / (low - high) == pytest.approx(1.0, abs=0.01)
    assert slope == pytest.approx(0, abs=0.01 * abs(loss(0.0)[1]))


def test_a_linear_reward_translates_the_noise():
    """f = s a at the value -log E exp(a x) = -(a m + s^2 a^2 / 2), at every sample."""
    flow_map = moved_map(1.5 * 0.8, 0.0, 0.4, 1.5)
    total = found(
        NoiseTilt(), flow_map, gaussian_map(0.4, 1.5), Parabola(a=0.8), quantiles(2000)
    ).total
    assert total.item() == pytest.approx(-(0.8 * 0.4 + 1.5**2 * 0.8**2 / 2), abs=1e-9)
    assert slopes(total, flow_map) == pytest.approx([0, 0], abs=2e-3)


def test_a_constant_reward_moves_nothing_and_a_constant_changes_nothing():
    base = linear_map([[0.3, -0.5], [0.2, 0.1]])
    still = linear_map([[0.3, -0.5], [0.2, 0.1]])
    weight = still.network.weight
    flat = found(NoiseTilt(), still, base, lambda x: 0 * x[:, 0] + 7, noise(50)).total
    assert torch.autograd.grad(flat, weight)[0].abs().max() < 1e-12
    one, other = (
        torch.autograd.grad(
            found(NoiseTilt(), still, base, lambda x, c=c: x[:, 0] ** 3 + c, noise(50)).total,
            weight,
        )[0]
        for c in (0.0, 100.0)
    )
    assert one.abs().max() > 0.1
    torch.testing.assert_close(one, other)


def test_what_it_makes_starts_from_the_tilted_noise():
    """Draws of the product at the minimum have the tilt's mean and standard deviation."""
    k, centre, mean, std = GAUSSIANS[1]
    a, c, _ = tilted_noise(k, centre, mean, std)
    flow_map, base = moved_map(a, c, mean, std), gaussian_map(mean, std)
    product = NoiseTilt().product(flow_map, base)
    assert isinstance(product, NoiseTilted)
    draws = Jump(2)(product, quantiles(5000)[:, None], None, None, seeded()).x[:, 0]
    precision = 1 / std**2 + k
    assert draws.mean().item() == pytest.approx((mean / std**2 + k * centre) / precision, abs=1e-3)
    assert draws.std().item() == pytest.approx(precision**-0.5, rel=1e-3)


# --- the volume term ----------------------------------------------------------------------------
W = torch.tensor([[0.3, -0.5, 0.1], [0.4, 0.2, -0.3], [0.0, 0.3, -0.4]], dtype=torch.float64)


@pytest.mark.parametrize("derivative", [None, FiniteDifference()])
def test_the_determinant_is_that_of_the_whole_jacobian(derivative):
    """Of a line, and of a network by reverse mode; |f|^2 is summed over dimensions."""
    base = linear_map(0 * W)
    terms = found(
        NoiseTilt(derivative=derivative), linear_map(W), base, lambda x: x[:, 0], noise(5, 3)
    ).terms
    expected = W.trace() - torch.logdet(torch.eye(3, dtype=torch.float64) + W)
    assert terms["volume"].item() == pytest.approx(expected.item(), abs=1e-9)
    half_squares = (noise(5, 3) @ W.T).square().sum(1).mean() / 2
    assert terms["energy"].item() == pytest.approx(half_squares.item())

    torch.manual_seed(0)
    flow_map = ResidualMap(Mlp(3, width=16, depth=2).double(), Linear())
    tilted = NoiseTilted(base, flow_map)
    x0 = noise(4, 3)
    f, volume = NoiseTilt(derivative=derivative).displaced(tilted, x0, None, seeded())
    torch.testing.assert_close(f, tilted.displacement(x0))
    for k in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: tilted.displacement(x[None])[0], x0[k]
        )
        log_det = torch.logdet(torch.eye(3, dtype=torch.float64) + jacobian)
        assert volume[k].item() == pytest.approx((jacobian.trace() - log_det).item(), abs=1e-6)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_series_is_that_of_the_determinant(order):
    """In the mean over probes, each power with its own sign and weight."""
    tilted = NoiseTilted(linear_map(0 * W), linear_map(W))
    x0 = noise(1, 3).repeat(200_000, 1)
    objective = NoiseTilt(exact_up_to=0, order=order)
    with torch.no_grad():
        f, volume = objective.displaced(tilted, x0, None, seeded())
    torch.testing.assert_close(f, x0 @ W.T)
    power, expected = W, 0.0
    for n in range(2, order + 1):
        power = power @ W
        expected += (-1) ** n * power.trace().item() / n
    error = volume.std().item() / math.sqrt(len(volume))
    assert abs(expected) > 20 * error
    assert volume.mean().item() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize(
    ("order", "std"), [(2, 2 / 3), (3, (5 - math.sqrt(13)) / 2)], ids=["2", "3"]
)
def test_the_series_rests_near_the_tilt(order, std):
    """On N(0, 1) with k = 1: .667 and .697 for .707, and the mean of the tilt."""
    flow_map = moved_map(0.75, std - 1)
    objective = NoiseTilt(exact_up_to=0, order=order)
    reward = Parabola(k=1.0, c=1.5)
    total = found(objective, flow_map, gaussian_map(), reward, quantiles(20_000)).total
    assert slopes(total, flow_map) == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("objective", [NoiseTilt(2), NoiseTilt(2, exact_up_to=0, order=3)])
def test_gradients_are_those_of_the_loss(objective):
    """Against differences in the weights of a network, in float64."""
    torch.manual_seed(0)
    flow_map = ResidualMap(Mlp(2, width=8, depth=2).double(), Linear())
    base = ResidualMap(Mlp(2, width=8, depth=2).double(), Linear()).requires_grad_(False)
    weights = list(flow_map.parameters())
    along = [torch.randn(w.shape, generator=seeded(5), dtype=w.dtype) for w in weights]

    def loss(h):
        with torch.no_grad():
            for w, v in zip(weights, along, strict=True):
                w.add_(h * v)
        return found(objective, flow_map, base, lambda x: torch.sin(2 * x).sum(1), noise(20)).total

    gradient = torch.autograd.grad(loss(0.0), weights)
    slope = sum((g * v).sum() for g, v in zip(gradient, along, strict=True)).item()
    difference = loss(1e-5) - loss(-2e-5)
    assert slope == pytest.approx(difference.item() / 2e-5, rel=1e-5)


# --- any samples --------------------------------------------------------------------------------
def test_images_with_labels_are_near_and_small_samples_exact():
    objective = NoiseTilt()
    assert objective.claim == "exact"
    flow_map, base = image_map(), image_map().requires_grad_(False)
    with torch.no_grad():
        flow_map.network.shift[1] += 0.2
    x0 = torch.randn(6, 1, 28, 28, generator=seeded())
    labels = torch.tensor([0, 1, 1, 2, 0, 1])
    loss = objective(flow_map, base, Tilt(lambda x: x.mean((1, 2, 3))), x0, labels, seeded(), 3)
    assert loss.terms["energy"].item() == pytest.approx(784 * 0.2**2 / 2 / 2, rel=1e-4)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow_map.parameters())
    assert objective.claim == "near"
    assert NoiseTilt(exact_up_to=0).claim == "near"
    found(objective, linear_map(W), linear_map(0 * W), lambda x: x[:, 0], noise(2, 3))
    assert objective.claim == "exact"


def test_each_sample_keeps_its_label():
    """The Jacobian takes copies of the batch: the loss is the mean of its samples' own."""
    flow_map, base = image_map().double(), image_map().double()
    with torch.no_grad():
        flow_map.network.convolution.weight.mul_(2)
    tilt = Tilt(lambda x: x.sum((1, 2, 3)))
    x0 = torch.randn(3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    whole = NoiseTilt()(flow_map, base, tilt, x0, labels, seeded(), 0).total
    alone = [
        NoiseTilt()(flow_map, base, tilt, x0[k : k + 1], labels[k : k + 1], seeded(), 0).total
        for k in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="order"):
        NoiseTilt(order=1)
    with pytest.raises(ValueError, match="jumps"):
        NoiseTilt(0)
