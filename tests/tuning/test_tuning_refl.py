"""ReFL: the gradient through one velocity in closed form, the hinge, what the map is taught."""

import pytest
import torch
from test_tuning_diagonal import Normal
from toys import noise, seeded

from rewards import Linear as LinearReward
from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric
from steer.tilt import Tilt
from steer.training import FlowMatching
from steer.tuning import ReFL
from steer.tuning.rollouts import EulerSteps, LateStep

REWARD = LinearReward([1.0])


def slope(objective, n=500, scale=1.0, seed=1):
    flow_map = ResidualMap(Normal(0.3), Linear())
    loss = objective(flow_map, flow_map, Tilt(REWARD, scale), noise(n, 1), None, seeded(seed), 0)
    return torch.autograd.grad(loss.total, flow_map.network.m)[0].item()


def test_the_gradient_is_that_of_the_posterior_mean():
    """On N(m, 1) it is d/dm E[x1 | x_t] = (1 - t)^2 / (t^2 + (1 - t)^2), at the late times."""
    t = torch.arange(30, 40) / 40
    expected = ((1 - t) ** 2 / (t**2 + (1 - t) ** 2)).mean().item()
    found = slope(ReFL(consistency=0.0), n=20_000, scale=2.0)
    assert found == pytest.approx(-2 * expected, rel=0.02)
    early = slope(ReFL(LateStep(40, late=40), consistency=0.0), n=20_000)
    t = torch.arange(40) / 40
    expected = ((1 - t) ** 2 / (t**2 + (1 - t) ** 2)).mean().item()
    assert early == pytest.approx(-expected, rel=0.02)


def test_on_another_path_it_is_the_posterior_mean_there():
    """u = W x on the trigonometric path: D = alpha x + sigma u / (pi / 2), since w = -pi / 2."""

    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

        def forward(self, x, s, t, cond=None):
            return self.w * x

    flow_map = ResidualMap(Scale(), Trigonometric())
    loss = ReFL(LateStep(4, late=1), consistency=0.0)(
        flow_map, flow_map, Tilt(REWARD), noise(9, 1), None, seeded(), 0
    )
    (found,) = torch.autograd.grad(loss.total, flow_map.network.w)
    x_t = noise(9, 1) * 1.1**3
    sigma = Trigonometric()(0.75).sigma
    assert torch.isclose(found, -(sigma * x_t / (torch.pi / 2)).mean())


def test_beyond_the_hinge_a_sample_no_longer_counts():
    flow_map = ResidualMap(Normal(0.3), Linear())
    z = LateStep()(flow_map, noise(500, 1), None, seeded()).z.detach()[:, 0]
    hinge = z.median().item()
    objective = ReFL(hinge=hinge, consistency=0.0)
    loss = objective(flow_map, flow_map, Tilt(REWARD), noise(500, 1), None, seeded(), 0)
    assert torch.isclose(loss.total, (hinge - z).clamp_min(0).mean())
    below, above = (
        slope(ReFL(hinge=hinge, consistency=0.0)),
        slope(ReFL(hinge=-9.0, consistency=0.0)),
    )
    whole = slope(ReFL(consistency=0.0))
    assert above == 0
    assert slope(ReFL(hinge=99.0, consistency=0.0)) == pytest.approx(whole)
    assert 0.3 < below / whole < 0.7


def test_the_map_is_taught_on_whole_samples():
    """Flow matching and the penalty see the ends of the steps, not the posterior means."""
    seen = []

    class Seen(FlowMatching):
        def forward(self, flow_map, x0, x1, cond, generator, step):
            seen.append(x1)
            return super().forward(flow_map, x0, x1, cond, generator, step)

    flow_map = ResidualMap(Normal(0.3), Linear())
    base = ResidualMap(Normal(0.0), Linear())
    objective = ReFL(LateStep(8, late=8), objective=Seen(), penalty=1.0, share=0.5)
    loss = objective(flow_map, base, Tilt(REWARD), noise(6, 1), None, seeded(), 0)
    walked = EulerSteps(8)(flow_map, noise(6, 1), None, seeded()).z.detach()
    assert torch.equal(seen[0], walked[::2])
    assert torch.isclose(
        loss.total, -loss.terms["tilt"] + loss.terms["energy"] + loss.terms["consistency"]
    )
