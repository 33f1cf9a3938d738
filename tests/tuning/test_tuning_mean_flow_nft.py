"""MeanFlowNFT: the velocity that a jump implies, and where a round takes the jump."""

import math

import pytest
import torch
from test_tuning_diagonal import M, Normal
from test_tuning_diffusion_nft import vertex
from toys import linear_map, noise, seeded

from steer.flow_map import ResidualMap
from steer.interpolant import Linear, expand
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.derivatives import FiniteDifference
from steer.training.times import Uniform
from steer.tuning import DiffusionNft, MeanFlowNft
from steer.tuning.diagonal import Clean, Renoised, renoised
from steer.tuning.objective import Follower

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples
WEIGHT = [[0.3, -0.5], [0.2, 0.1]]


def radius(t):
    return expand((t**2 + (1 - t) ** 2).sqrt(), torch.empty(0, 1, dtype=torch.float64))


def covariance_of_normal(x, s, t):
    """Cov(x1, I_s' | x_s) on N(0, 1), the same at every x."""
    return expand(1 - s, x) / radius(s) ** 2


def carried(x, s, t):
    return radius(t) / radius(s) * covariance_of_normal(x, s, t)


def implied(direction):
    def made():
        return MeanFlowNft(
            Jump(1), on_diagonal=0, to_data=1, kl=0, noisings=4, off_weight=0, advantage_clip=8
        )

    old = ResidualMap(Normal(0.0), Linear())
    return vertex(made, old, direction, 20_000, 0.0, 0.25) * 8


def test_a_round_carries_the_change_along_the_jump():
    """On N(0, 1), r = x: grad X_{s,1} Cov / (c beta), not the velocity's Cov / (c beta)."""
    assert implied(carried) == pytest.approx(1.0, abs=0.04)
    s = torch.rand(100_000, generator=seeded(), dtype=torch.float64)
    square = covariance_of_normal(s[:, None], s, s).square()
    ratio = (square / radius(s)).mean() / square.mean()  # projected on the other direction
    assert ratio > 1.1
    assert implied(covariance_of_normal) == pytest.approx(ratio.item(), abs=0.05)


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.5), (0.2, 1.0), (0.6, 1.0)])
def test_a_jump_implies_the_velocity_on_average(s, t):
    """E[(V - b_s) h(x_s)] = 0 on a mixture's exact map, for several h."""
    n = 4000
    objective = MeanFlowNft()
    objective.old = Follower(linear_map(WEIGHT))
    objective.old.map = M
    objective.ends = lambda times, generator: torch.full_like(times, t)
    x1, x0 = M.sample(n, seeded()), noise(n, 1)
    times = torch.full((n,), s, dtype=torch.float64)
    x_s, velocity = M.schedule.interpolate(x0, x1, s), M.schedule.path_velocity(x0, x1, s)
    seen = Renoised(Clean(x1, x1[:, 0], None), x_s, times, velocity, torch.arange(n), None)
    V, old, reference = objective.velocities(M, M, seen, seeded())
    assert torch.equal(V, old)
    assert torch.equal(V, reference)
    gap = V - M.velocity(x_s, s)
    for h in (1.0, x_s, x_s.square(), x_s.sin()):
        of_h = gap * h
        error = of_h.std() / math.sqrt(n)
        assert abs(of_h.mean()) < 4 * error
        assert error < 0.06
    average = (M.average_velocity(x_s, s, t) - M.velocity(x_s, s)) * x_s
    assert abs(average.mean()) > 0.2  # the average velocity itself is another


def test_on_the_diagonal_it_is_diffusion_nft():
    found = []
    for make in (DiffusionNft, lambda **more: MeanFlowNft(on_diagonal=1, to_data=0, **more)):
        flow_map, base = linear_map(WEIGHT), linear_map([[0.1, 0.2], [0.0, 0.4]])
        objective = make(kl=0.3, off_weight=0, beta=0.4)
        tilt = Tilt(lambda x: x.sum(1))
        objective.prepare(linear_map([[0.2, 0.2], [0.1, 0.1]]), base, tilt)
        loss = objective(flow_map, base, tilt, noise(32), None, seeded(), 0)
        slope = torch.autograd.grad(loss.total, flow_map.network.weight)[0]
        found.append(torch.cat((loss.total.detach()[None], slope.flatten())))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_the_pairs_of_times():
    s = torch.rand(20_000, generator=seeded())
    t = MeanFlowNft(on_diagonal=0.5, to_data=0.2).ends(s, seeded(2))
    assert (t == s).double().mean() == pytest.approx(0.5, abs=0.015)
    assert (t == 1).double().mean() == pytest.approx(0.2, abs=0.015)
    between = (t > s) & (t < 1)
    share = (t - s)[between] / (1 - s)[between]
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="at most 1 together"):
        MeanFlowNft(on_diagonal=0.7, to_data=0.7)


def test_differences_serve_as_well_as_forward_mode():
    class Cubic(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return expand(s.square() - t, x) * x + 0.1 * x**3

    flow_map = ResidualMap(Cubic(), Linear())
    found = []
    for derivative in (None, FiniteDifference(0.001)):
        objective = MeanFlowNft(derivative=derivative, on_diagonal=0)
        objective.prepare(flow_map, flow_map, Tilt(lambda x: x[:, 0]))
        clean = Clean(noise(50), noise(50)[:, 0], None)
        seen = renoised(clean, Linear(), 1, Uniform(), seeded())
        found.append(objective.velocities(flow_map, flow_map, seen, seeded(4))[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
