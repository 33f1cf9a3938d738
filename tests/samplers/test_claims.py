"""A claim belongs to a sampler and a map: whose law the weighted samples follow once the velocity
is guided.

Two normal classes on the line under classifier-free guidance of weight 3: the law of the flow comes
from quadrature over the
noise, that of each noisy chain from its transition density on a grid.
"""

import math
from functools import cache

import pytest
import torch
from zoo import noise, seeded

from rewards import Linear as LinearReward
from steer.analytic import GaussianMixture
from steer.flow_map import OdeMap
from steer.guidance import ClassifierFree, Guided, Unconditional
from steer.interpolant import Linear
from steer.lookahead import Denoiser, Identity, MapJump
from steer.samplers import (
    FkSteering,
    Jump,
    Ode,
    PathWeights,
    ReversalWeights,
    Sde,
    TrajectoryTilting,
    TransitionWeights,
    UnguidedTilting,
)
from steer.samplers.base import Stepwise
from steer.solvers import Euler, Rk4
from steer.tilt import Tilt

WEIGHT = 3.0
MEANS = [[-1.5], [1.5]]
STD = 0.5
LABEL = torch.tensor([1])
TILT = 0.7


def world():
    return GaussianMixture(MEANS, STD)


def guided():
    return ClassifierFree(world(), WEIGHT)


def log_z(sampler, flow_map, prompts=16, particles=512, seed=3):
    """Mean of log Z over independent prompts, and its standard error."""
    x0 = noise(prompts, particles, 1, seed=seed)
    result = sampler(flow_map, x0, Tilt(LinearReward([TILT])), LABEL.expand(prompts), seeded())
    return result.log_z.mean().item(), result.log_z.std().item() / prompts**0.5, result.claim


@cache
def law_of_chain(model, steps, eps):
    """log E[exp(TILT x)] of the unguided-by-reward chain, by its transition density on a grid."""
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    width = grid[1] - grid[0]
    flow_map = model()
    x = grid[:, None]
    label = LABEL.expand(len(grid))
    p = torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for k in range(steps):
        s, t = k / steps, (k + 1) / steps
        level = eps * float(Linear()(t).sigma)
        v = flow_map.velocity(x, s, label)
        drift = v if level == 0 else v + level * flow_map.score(x, s, label)
        mean = (x + drift / steps)[:, 0]
        variance = 2 * level / steps
        if variance == 0:
            return torch.log((p * torch.exp(TILT * mean)).sum() * width).item()
        kernel = torch.exp(-((grid[:, None] - mean[None]) ** 2) / (2 * variance)) / math.sqrt(
            2 * math.pi * variance
        )
        p = kernel @ p * width
    raise AssertionError("the last step has no noise")


def law_of_flow(flow_map):
    """log E[exp(TILT x1)] along the flow, by quadrature over the noise."""
    x = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    x1 = OdeMap(flow_map, Linear(), 100, Rk4())(x, 0.0, 1.0, LABEL.expand(len(x)))
    p = torch.exp(-(x**2) / 2)
    return torch.log((p * torch.exp(TILT * x1)).sum() / p.sum()).item()


def test_guidance_makes_a_law_for_every_noise_level():
    """The reason for all that follows: three laws that are far apart."""
    flow = law_of_flow(guided())
    chain = [law_of_chain(guided, 80, eps) for eps in (1.0, 3.0)]
    assert flow - chain[0] > 0.05
    assert chain[0] - chain[1] > 0.05
    plain = [law_of_chain(world, 80, eps) for eps in (1.0, 3.0)]
    assert abs(plain[0] - law_of_flow(world())) < 0.02
    assert abs(plain[1] - law_of_flow(world())) < 0.02


CHAINS = {
    "Sde": lambda eps: Sde(80, eps),
    "FkSteering": lambda eps: FkSteering(80, every=20, eps=eps),
    "FMTT": lambda eps: TrajectoryTilting(80, Identity(), eps=eps),
    "FMTT, denoiser": lambda eps: TrajectoryTilting(80, Denoiser(), eps=eps),
    "FMTT, transitions": lambda eps: TrajectoryTilting(
        80, Denoiser(), eps=eps, weighting=TransitionWeights()
    ),
    "FMTT, unguided": lambda eps: UnguidedTilting(
        80,
        Denoiser(),
        eps=eps,
    ),
}


@pytest.mark.parametrize("eps", [1.0, 3.0])
@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_exact_for_themselves(name, eps):
    """Samplers with noise on a guided map find the log Z of their own chain, and say so."""
    mean, error, claim = log_z(CHAINS[name](eps), guided())
    assert claim == "exact for the chain"
    assert error < 0.012
    assert abs(mean - law_of_chain(guided, 80, eps)) < 4 * error


@pytest.mark.parametrize(
    "sampler", [Ode(80), TrajectoryTilting(80, Denoiser(), eps=0.0, resample_below=0.0)]
)
def test_without_noise_the_law_is_that_of_the_flow(sampler):
    mean, error, claim = log_z(sampler, guided(), prompts=32)
    assert claim == "exact"
    assert abs(mean - law_of_flow(guided())) < 4 * error + 0.02


@pytest.mark.parametrize("weighting", [PathWeights(), ReversalWeights()])
def test_weights_that_need_the_score_of_the_flow_are_biased_without_it(weighting):
    sampler = TrajectoryTilting(80, Denoiser(), eps=1.0, weighting=weighting)
    assert sampler.claim_on(world()) == "exact"
    assert sampler.claim_on(guided()) == "biased"


def test_claims_by_map():
    plain, jumpy = world(), OdeMap(world(), Linear(), 4, Euler())
    assert [Sde().claim_on(m) for m in (plain, Unconditional(plain), Guided(plain), jumpy)] == [
        "exact"
    ] * 4
    assert Sde().claim_on(guided()) == Sde().claim_on(Guided(guided())) == "exact for the chain"
    assert Sde(eps=0.0).claim_on(guided()) == "exact"
    assert [Jump(2, renoise).claim_on(plain) for renoise in (False, True)] == ["exact", "exact"]
    assert Jump(2).claim_on(jumpy) == Jump(2).claim_on(guided()) == "exact for the chain"
    assert all(isinstance(sampler, Stepwise) for sampler in (Sde(), Jump()))


@pytest.mark.parametrize(
    "flow_map",
    [
        OdeMap(world(), Linear(), 4, Euler()),
        Guided(world(), steps=4),
        Guided(Unconditional(world()), steps=4),
    ],
    ids=["OdeMap", "Guided", "Guided of Unconditional"],
)
def test_jumps_by_solver_steps_are_not_assumed_to_follow_the_velocity(flow_map):
    """Four Euler steps deviate from the flow: path weights account for it, trusted or not."""
    assert not MapJump().follows(flow_map)
    trusted, untrusted = (
        log_z(
            TrajectoryTilting(20, MapJump(assume_consistent=trust), weighting=PathWeights()),
            flow_map,
            particles=64,
        )
        for trust in (True, False)
    )
    assert trusted == untrusted


def test_path_weights_of_jumps_by_solver_steps_are_those_of_the_flow():
    flow_map = Unconditional(OdeMap(world(), Linear(), 4, Euler()))
    mean, error, claim = log_z(TrajectoryTilting(100, MapJump(), weighting=PathWeights()), flow_map)
    assert claim == "exact"
    assert abs(mean - law_of_flow(Unconditional(world()))) < 4 * error + 0.01
