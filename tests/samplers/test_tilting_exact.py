"""Trajectory tilting against closed forms: log Z, mean and mode weights of the tilted law, for
every look-ahead.

Errors are measured over independent prompts, which gives their Monte-Carlo error from the run
itself; the step may add to them what docs/results.md measures at this size.
"""

import math

import pytest
import torch
from line import Line
from selection import slow_but

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.analytic import GaussianMixture, ring
from steer.flow_map import OdeMap
from steer.interpolant import Trigonometric, VariancePreserving
from steer.lookahead import Denoiser, Glass, Identity, MapJump, Posterior, Renoise, ShortOde
from steer.resampling import multinomial, residual, stratified
from steer.samplers import (
    FkSteering,
    Jump,
    Ode,
    PathWeights,
    ReversalWeights,
    Rising,
    Sde,
    Tempering,
    TrajectorySearch,
    TrajectoryTilting,
    TransitionWeights,
    UnguidedTilting,
    ValueSmc,
    das,
    tds,
)
from steer.solvers import Euler
from steer.tilt import Tilt

REWARD = Quadratic([1.0, 0.5], 0.5)
STEP_ERROR = 0.02


def world(steps=8):
    """Two unequal components of the plane, near enough for the oracle's jumps to be cheap."""
    return GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], steps=steps)


def noise(prompts, particles, d=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(prompts, particles, d, generator=g, dtype=torch.float64), g


def mean_and_error(per_prompt):
    return per_prompt.mean(0), per_prompt.std(0) / len(per_prompt) ** 0.5


def check_tilted(result, law, log_z, step_error=STEP_ERROR):
    estimate, error = mean_and_error(result.log_z)
    assert abs(estimate - log_z) < 4 * error + step_error
    weights = result.log_w.softmax(1)[..., None]
    mean, error = mean_and_error((weights * result.x).sum(1))
    assert (
        (mean - (law.weights[:, None] * law.means).sum(0)).abs() < 4 * error + 2 * step_error
    ).all()
    left, error = mean_and_error((weights[..., 0] * (result.x[..., 0] < 0)).sum(1))
    truth = torch.special.ndtr(-law.means[:, 0] / law.std[:, 0]) @ law.weights
    assert abs(left - truth) < 4 * error + step_error


SETTINGS = {
    "map": {"lookahead": MapJump()},
    "map, extra drift": {"lookahead": MapJump(), "chi": lambda t: 0.5 * (1 - t)},
    "denoiser": {"lookahead": Denoiser()},
    "denoiser, extra drift": {"lookahead": Denoiser(), "chi": lambda t: 0.5 * (1 - t)},
    "denoiser, less drift": {"lookahead": Denoiser(), "chi": lambda t: -0.5 * (1 - t)},
    "denoiser, path weights": {"lookahead": Denoiser(), "weighting": PathWeights()},
    "denoiser, path weights, extra drift": {
        "lookahead": Denoiser(),
        "weighting": PathWeights(),
        "chi": 0.5,
    },
    "denoiser, the whole kick": {"lookahead": Denoiser(), "trust_radius": math.inf},
    "denoiser, a short kick": {"lookahead": Denoiser(), "trust_radius": 0.2},
    "identity": {"lookahead": Identity()},
    "identity, extra drift": {"lookahead": Identity(), "chi": lambda t: 0.5 * (1 - t)},
    "identity, path weights": {"lookahead": Identity(), "weighting": PathWeights()},
    "identity, reversal weights": {
        "lookahead": Identity(),
        "weighting": ReversalWeights(),
        "chi": 0.5,
    },
    "reversal weights, noise to the end": {"weighting": ReversalWeights(), "eps": lambda t: 1 - t},
    "posterior, reversal weights": {"lookahead": Posterior(8), "weighting": ReversalWeights()},
    "identity, more noise": {"lookahead": Identity(), "eps": lambda t: 2 * (1 - t)},
    "identity, no resampling": {"lookahead": Identity(), "resample_below": 0.0},
    "identity, resampling always": {"lookahead": Identity(), "resample_below": 1.0},
    "short ode": {"lookahead": ShortOde(2)},
    "posterior": {"lookahead": Posterior(8)},
    "glass": {"lookahead": Glass(4, steps=2)},
    "renoise": {"lookahead": Renoise(4, nodes=1)},
    "all of the tilt": {"lookahead": Denoiser(), "annealing": 1.0},
    "all of the tilt, extra drift": {"lookahead": Identity(), "annealing": 1.0, "chi": -0.5},
    "map, rising": {"lookahead": MapJump(), "annealing": Rising(4.0)},
    "denoiser, rising, extra drift": {
        "lookahead": Denoiser(),
        "annealing": Rising(4.0),
        "chi": 0.5,
    },
    "map, tempering": {"lookahead": MapJump(), "annealing": Tempering(0.97)},
    "denoiser, tempering, extra drift": {
        "lookahead": Denoiser(),
        "annealing": Tempering(0.9),
        "chi": 0.5,
    },
    "posterior, in pieces": {"lookahead": Posterior(8, at_once=3)},
    "glass, in pieces": {"lookahead": Glass(2, steps=2, at_once=1)},
    "unguided": {"kind": UnguidedTilting, "lookahead": Denoiser()},
    "multinomial": {"lookahead": Identity(), "resampling": multinomial},
    "stratified": {"lookahead": Identity(), "resampling": stratified},
    "residual": {"lookahead": Identity(), "resampling": residual},
}


LONG = {"renoise", "glass, in pieces", "posterior, in pieces", "posterior, reversal weights"}


@pytest.mark.parametrize("setting", slow_but(SETTINGS.keys() - LONG, SETTINGS.values(), SETTINGS))
def test_every_setting_samples_the_tilted_law(setting):
    model, (x0, g) = world(), noise(12, 512)
    law, log_z = model.tilted(REWARD)
    setting = dict(setting)
    check_tilted(
        setting.pop("kind", TrajectoryTilting)(50, **setting)(model, x0, Tilt(REWARD), generator=g),
        law,
        log_z,
    )


@pytest.mark.parametrize(
    "sampler",
    [
        *(tds(50), das(50), das(50, annealing=Tempering(0.9)), tds(50, MapJump())),
        *(
            ValueSmc(50),
            ValueSmc(50, Posterior(2)),
            pytest.param(ValueSmc(50, Glass(2, steps=2)), marks=pytest.mark.slow),
            ValueSmc(50, Denoiser()),
        ),
    ],
    ids=[
        "tds",
        "das",
        "das, tempering",
        "tds, map",
        "values",
        "values, 2 draws",
        "values, glass",
        "values, denoiser",
    ],
)
def test_twisted_and_value_monte_carlo_sample_the_tilted_law(sampler):
    model, (x0, g) = world(), noise(12, 512)
    law, log_z = model.tilted(REWARD)
    check_tilted(sampler(model, x0, Tilt(REWARD), generator=g), law, log_z)


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
@pytest.mark.parametrize("below", [1.0, 0.5])
def test_every_potential_of_fk_steering_samples_the_tilted_law(potential, below):
    model, (x0, g) = world(), noise(12, 512)
    law, log_z = model.tilted(REWARD)
    sampler = FkSteering(60, potential=potential, every=20, resample_below=below)
    result = sampler(model, x0, Tilt(REWARD), generator=g)
    check_tilted(result, law, log_z)
    assert result.trace["ess"].shape == (3, 12)
    assert result.trace["resampled"][:2].all() == (below == 1)


@pytest.mark.parametrize("schedule", [Trigonometric(), VariancePreserving()], ids=repr)
def test_every_schedule_samples_the_tilted_law(schedule):
    model = GaussianMixture([[-1.0, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], schedule, steps=4)
    x0, g = noise(12, 256)
    law, log_z = model.tilted(REWARD)
    check_tilted(
        TrajectoryTilting(60, Denoiser())(model, x0, Tilt(REWARD), generator=g), law, log_z
    )


def test_a_linear_reward_and_a_scale_per_prompt():
    model, (x0, g) = world(), noise(24, 512)
    scales = torch.tensor([0.5, -1.0]).repeat_interleave(12)
    result = TrajectoryTilting(60, Denoiser())(
        model, x0, Tilt(LinearReward([1.0, 0.3]), scales), generator=g
    )
    for rows, scale in ((slice(0, 12), 0.5), (slice(12, 24), -1.0)):
        _, log_z = model.tilted(LinearReward([scale * 1.0, scale * 0.3]))
        estimate, error = mean_and_error(result.log_z[rows])
        assert abs(estimate - log_z) < 4 * error + STEP_ERROR


@pytest.mark.parametrize(
    "weighting", [TransitionWeights(), PathWeights()], ids=["transition", "path"]
)
@pytest.mark.parametrize("lookahead", [Denoiser(), Identity()], ids=["denoiser", "identity"])
def test_the_step_error_falls_with_the_step(lookahead, weighting):
    """Weak order one at least: four times the steps leave less than half the bias."""
    model, reward = GaussianMixture([[0.0], [2.0]], 0.4), Quadratic([2.5], 4.0)
    _, log_z = model.tilted(reward)
    bias = {}
    for steps in (8, 32):
        x0, g = noise(16, 2048, d=1)
        result = TrajectoryTilting(steps, lookahead, weighting=weighting)(
            model, x0, Tilt(reward), generator=g
        )
        bias[steps], error = mean_and_error(result.log_z - log_z)
    assert bias[8].abs() > 6 * error  # there is something to fall
    assert bias[32].abs() < bias[8].abs() / 2 + 3 * error


def test_trapezoidal_weights_beat_left_ones_where_nothing_looks_ahead():
    model, reward = GaussianMixture([[0.0], [2.0]], 0.4), Quadratic([2.5], 4.0)
    _, log_z = model.tilted(reward)
    bias = {}
    for name, weighting in (("trapezoid", PathWeights()), ("left", PathWeights(trapezoidal=False))):
        x0, g = noise(16, 2048, d=1)
        result = TrajectoryTilting(16, Identity(), weighting=weighting)(
            model, x0, Tilt(reward), generator=g
        )
        bias[name], error = mean_and_error(result.log_z - log_z)
    assert bias["trapezoid"].abs() < bias["left"].abs() / 2 - 3 * error


def test_the_derivative_of_an_exact_jump_weighs_nothing():
    """(d_t + b . grad) X_{t,1} = 0: to trust an exact map or to differentiate its jump is the same,
    path by path.
    """
    model, (x0, _) = world(steps=32), noise(2, 8)
    for trusted in (True, False):
        sampler = TrajectoryTilting(6, MapJump(trusted), weighting=PathWeights(), resample_below=0)
        result = sampler(model, x0, Tilt(REWARD), generator=torch.Generator().manual_seed(1))
        first = result if trusted else first
    assert torch.allclose(result.x, first.x, rtol=1e-12)
    assert torch.allclose(result.log_w, first.log_w, atol=2e-3)


def test_the_derivative_of_a_wrong_jump_is_weighed():
    """A map that jumps along the tangent lands on the denoiser; untrusted, it has the denoiser's
    exact weights.
    """
    model, tangent, (x0, _) = (
        world(),
        OdeMap(world(), world().schedule, steps=1, solver=Euler()),
        noise(2, 64),
    )
    results = [
        TrajectoryTilting(10, lookahead, weighting=PathWeights())(
            flow_map, x0, Tilt(REWARD), generator=torch.Generator().manual_seed(1)
        )
        for flow_map, lookahead in (
            (tangent, MapJump(assume_consistent=False)),
            (model, Denoiser()),
        )
    ]
    assert torch.allclose(results[0].x, results[1].x, rtol=1e-9)
    assert torch.allclose(results[0].log_z, results[1].log_z, rtol=1e-9)


def test_log_z_is_unbiased_on_the_scale_of_z():
    """E[Z-hat] = Z for the particle system of transition weights, up to the base chain's own step
    error.
    """
    model, (x0, g) = world(), noise(400, 16)
    _, log_z = model.tilted(REWARD)
    result = TrajectoryTilting(60, Identity(), weighting=TransitionWeights())(
        model, x0, Tilt(REWARD), generator=g
    )
    ratio, error = mean_and_error((result.log_z - log_z).exp())
    assert abs(ratio - 1) < 4 * error + STEP_ERROR


@pytest.mark.parametrize(
    "base", [Ode(60), Sde(120), Jump(3), Jump(3, renoise=True)], ids=lambda s: type(s).__name__
)
def test_base_samplers_weigh_their_samples_by_the_tilt(base):
    model, (x0, g) = world(), noise(12, 1024)
    law, log_z = model.tilted(REWARD)
    check_tilted(base(model, x0, Tilt(REWARD), generator=g), law, log_z)


def test_guidance_without_weights_is_biased_and_one_correction_mends_it():
    model, (x0, g) = world(), noise(12, 512)
    reward = Quadratic([1.0, 0.5], 2.0)
    law, log_z = model.tilted(reward)
    result = TrajectoryTilting(60, MapJump(), resample_below=0)(
        model, x0, Tilt(reward), generator=g
    )
    check_tilted(result, law, log_z)
    plain, error = mean_and_error((result.x[..., 0] < 0).double().mean(1))
    truth = torch.special.ndtr(-law.means[:, 0] / law.std[:, 0]) @ law.weights
    assert abs(plain - truth) > 6 * error


def test_search_climbs_and_claims_no_law():
    model, (x0, g) = world(), noise(4, 64)
    sampler = TrajectorySearch(40, every=5, keep=0.25)
    assert sampler.claim == "maximiser"
    found = sampler(model, x0, Tilt(REWARD), generator=g)
    tilted = TrajectoryTilting(40)(model, x0, Tilt(REWARD), generator=g)
    assert found.log_z is None
    assert found.tilt.mean() > (tilted.log_w.softmax(1) * tilted.tilt).sum(1).mean()


# --- where the jump is steep --------------------------------------------------------------------
def check_watersheds(world, reward, particles, prompts, steps=100, **more):
    """log Z within .02 and three standard errors, which together are below 5 % of Z; every mode's
    weight within .01.
    """
    law, log_z = world.tilted(reward)
    x0, g = noise(prompts, particles, len(law.means[0]))
    result = TrajectoryTilting(steps, **more)(world, x0, Tilt(reward), generator=g)
    estimate, error = mean_and_error(result.log_z)
    assert 3 * error + STEP_ERROR < 0.05
    assert abs(estimate - log_z) < 3 * error + STEP_ERROR
    modes = law.responsibilities(result.x.flatten(0, 1)).unflatten(0, (prompts, particles))
    weights, error = mean_and_error((result.log_w.softmax(1)[..., None] * modes).sum(1))
    assert ((weights - law.weights).abs() < 3 * error + 0.01).all()


STEEP = {"resampling": {}, "none": {"resample_below": 0.0}, "extra drift": {"chi": 0.5}}
SLOW = [
    pytest.param(STEEP[name], id=name, marks=pytest.mark.slow) for name in ("none", "extra drift")
]


@pytest.mark.parametrize("setting", [pytest.param(STEEP["resampling"], id="resampling"), *SLOW])
def test_the_map_is_exact_next_to_the_watersheds_of_the_noise(setting):
    """Two modes ten standard deviations apart: weighed along the path log Z is .11 low."""
    check_watersheds(Line([-2.0, 2.0], 0.4, [0.7, 0.3]), Quadratic([1.5], 0.7), 2048, 16, **setting)


@pytest.mark.slow
def test_five_modes_in_three_dimensions():
    """Weighed along the path, log Z is .06 low."""
    means = [[2, 0, 1], [-1.5, 2, 0], [0, -2.5, -1], [1, 1, -2], [-2, -1, 1.5]]
    five = GaussianMixture(
        1.0 * torch.tensor(means, dtype=torch.float64), 0.4, [0.1, 0.3, 0.25, 0.05, 0.3], steps=16
    )
    check_watersheds(five, Quadratic([1.0, 0.5, -0.5], 0.7), 2000, 16, max_batch=8000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lookahead", [MapJump(), Denoiser(), Identity(), Posterior(4)], ids=lambda a: type(a).__name__
)
def test_the_ring_of_eight(lookahead):
    check_watersheds(
        ring(steps=16), Quadratic([3.0, 2.0], 0.5), 4000, 12, lookahead=lookahead, max_batch=8000
    )
