"""Bad input ends in one line that says what was expected, what came, and what to do."""

import math
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from ball import Ball
from zoo import BUILD, FOLLOWS_GRADIENT, noise, seeded

from rewards import Quadratic
from steer.lookahead import Denoiser, Identity, Posterior
from steer.samplers import (
    BestOfN,
    FkSteering,
    Jump,
    Ode,
    PathWeights,
    Sde,
    TrajectorySearch,
    TrajectoryTilting,
    UnguidedTilting,
    ValueSmc,
    training_free,
)
from steer.samplers.smc.degeneracy import WeightDegeneracy
from steer.tilt import NonFiniteReward, Tilt

every = pytest.mark.parametrize("name", BUILD)
guided = pytest.mark.parametrize("name", sorted(FOLLOWS_GRADIENT))
GRADIENT_FREE = re.compile(r"use .*(UnguidedTilting|FkSteering|Svdd|BestOfN)")
REWARD = Quadratic([0.0, 0.0], 1.0)


def raised(error, sampler, x0, tilt, cond=None):
    with pytest.raises(error) as caught:
        sampler(Ball(), x0, tilt, cond, seeded())
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def asked(monkeypatch):
    """The first time of each call at which a reward is evaluated at a sample that is far away."""
    times = []
    evaluate = Tilt.rewards

    def rewards(self, x, cond=None, t=None):
        if (x[:, 1].abs() > 1e6).any():
            times.append(float(torch.as_tensor(t).max()))
        return evaluate(self, x, cond, t)

    monkeypatch.setattr(Tilt, "rewards", rewards)
    return times


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_stops_with_sample_and_time(name, bad, asked):
    """Particle 1 of prompt 2, the tenth of the batch, whatever the pieces it comes in."""

    def reward(x, bad=bad):
        return torch.where(x[:, 1].abs() > 1e6, bad, 0.0 * x[:, 0])

    x0 = noise(3, 4, 2)
    x0[2, 1, 1] = 1e12
    for most in (None, 3):
        sampler = BUILD[name](max_batch=most)
        asked.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of divergence
            sampler(Ball(), x0, Tilt(partial(reward, bad=0.0)), None, seeded())
        if not asked:
            assert not isinstance(sampler, TrajectoryTilting)  # which looks at the noise itself
            continue  # its first step leaves nothing of x0
        first = asked[0]
        error = raised(NonFiniteReward, BUILD[name](max_batch=most), x0, Tilt(reward))
        assert f"is {bad:g} for sample 9 at t = {first:.4g};" in str(error)


@pytest.mark.parametrize(
    "name", ["TrajectoryTilting", "untrusted map", "identity", "short ode", "search"]
)
def test_a_gradient_that_is_not_finite_stops_with_sample_and_time(name):
    """r = min(|x|, 1) is finite at 0, and its gradient there is 0/0."""
    x0 = noise(2, 4, 2)
    x0[1, 2] = 0.0
    error = raised(
        NonFiniteReward, BUILD[name](max_batch=3), x0, Tilt(lambda x: x.square().sum(1).sqrt())
    )
    assert "the gradient of <lambda> is not finite for sample 6 at t = 0;" in str(error)


@every
@pytest.mark.parametrize(
    ("reward", "got"),
    [
        (lambda x: x, r"\(6, 2\)"),
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x[:, :1], r"\(6, 1\)"),
        (lambda x: 1.0, "float"),
        (lambda x: (x > 0).sum(1), "torch.int64"),
    ],
    ids=["vectors", "scalar", "column", "number", "integers"],
)
def test_a_reward_of_another_shape_is_refused(name, reward, got):
    with pytest.raises(ValueError, match=rf"shape \(6,\); <lambda> returned.*{got}"):
        BUILD[name]()(Ball(), noise(1, 6, 2), Tilt(reward), None, seeded())


@guided
def test_a_reward_without_gradient_is_refused_by_what_needs_one(name):
    class Size(torch.nn.Module):
        differentiable, why_not_differentiable = False, "Sizes are counted."

        def forward(self, x):
            raise AssertionError("refused before it is asked")

    message = str(raised(ValueError, BUILD[name](), noise(1, 4, 2), Tilt(Size())))
    assert message.startswith("Size has no gradient (Sizes are counted)")
    assert GRADIENT_FREE.search(message)


@guided
def test_a_reward_that_leaves_torch_unannounced_is_found_out(name):
    message = str(
        raised(ValueError, BUILD[name](), noise(1, 4, 2), Tilt(lambda x: x.detach().sum(1)))
    )
    assert "has no gradient (torch cannot follow" in message
    assert GRADIENT_FREE.search(message)


@every
def test_noise_and_conditions_of_another_shape_are_refused(name):
    sampler, tilt = BUILD[name](), Tilt(REWARD)
    assert "(4, 2)" in str(raised(ValueError, sampler, noise(4, 2), tilt))
    assert "at least one" in str(raised(ValueError, sampler, noise(2, 0, 2), tilt))
    assert "NaN" in str(raised(ValueError, sampler, noise(1, 4, 2) / 0, tilt))
    assert "2 of them; got 3" in str(
        raised(ValueError, sampler, noise(2, 4, 2), tilt, torch.tensor([0, 1, 2]))
    )
    assert "2 of them; got 4" in str(
        raised(ValueError, sampler, noise(2, 4, 2), Tilt(REWARD, torch.ones(4)))
    )


def test_inference_mode_is_not_blamed_on_the_reward():
    with torch.inference_mode():
        message = str(raised(ValueError, TrajectoryTilting(2), noise(1, 2, 2), Tilt(REWARD)))
        assert "no_grad()" in message
        assert (
            UnguidedTilting(
                2,
            )(Ball(), noise(1, 2, 2), Tilt(REWARD))
            .x.isfinite()
            .all()
        )


@pytest.mark.parametrize("far", [1e200, -1e200])
def test_samples_that_run_away_are_not_blamed_on_the_reward(far):
    tilt, x0 = Tilt(lambda x: far * x.square().sum(1)), noise(2, 2, 2)
    message = str(raised(NonFiniteReward, training_free.dps(6, rho=1e200, norm=None), x0, tilt))
    assert "what <lambda> is asked about is not finite for sample 0" in message
    assert "the samples diverge, not the reward: take more steps" in message
    assert "Clipped" not in message


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_number_of_steps_and_what_is_not_built():
    with pytest.raises(
        ValueError, match=r"TrajectoryTilting takes a whole number of steps first; got 2.5"
    ):
        TrajectoryTilting(2.5)
    with pytest.raises(
        ValueError,
        match=r"TrajectoryTilting takes a whole number of steps first; got steer",
    ):
        TrajectoryTilting(Denoiser())
    with pytest.raises(ValueError, match="whole number of steps first; got True"):
        Sde(True)
    assert Sde(np.int64(3)).steps == 3
    with pytest.raises(
        ValueError, match="BestOfN takes a sampler; got the class Jump: build one, Jump\\(\\)"
    ):
        BestOfN(Jump)
    sampler = TrajectoryTilting(2, lookahead=Denoiser)
    message = str(raised(ValueError, sampler, noise(1, 2, 2), Tilt(REWARD)))
    assert message == "lookahead is the class Denoiser; build one: lookahead=Denoiser()"


@pytest.mark.usefixtures("unchecked")
def test_a_reward_is_not_a_tilt():
    assert "pass tilt=steer.Tilt(reward)" in str(raised(ValueError, Sde(2), noise(1, 2, 2), REWARD))


def test_samplers_that_need_a_reward_say_so():
    assert "tilt=" in str(raised(ValueError, BestOfN(Ode(2)), noise(1, 2, 2), None))
    assert "tilt=" in str(raised(ValueError, TrajectoryTilting(2), noise(1, 2, 2), None))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sde(2, lambda t: math.inf), "finite and at least 0; at t = 0 it is inf"),
        (
            TrajectoryTilting(2, Denoiser(), chi=lambda t: math.inf),
            "chi must be finite; at t = 0 it is inf",
        ),
        (
            TrajectoryTilting(2, annealing=lambda t: t if t == 1 else float("nan")),
            "level must be finite; at t = 0",
        ),
        (TrajectoryTilting(2, eps=0.0, chi=lambda t: 1.0), "transition weights need noise"),
        (
            TrajectoryTilting(2, eps=0.0, chi=lambda t: 1.0, weighting=PathWeights()),
            "extra drift needs noise to be weighted",
        ),
        (ValueSmc(2, eps=0.0), "weights by reversal need noise: eps is 0 at t = 0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_levels_of_noise_drift_and_tilt_make_sense(sampler, message):
    assert message in str(raised(ValueError, sampler, noise(1, 4, 2), Tilt(REWARD)))


def test_a_look_ahead_whose_slope_in_time_is_infinite_is_told_of():
    class Rooted(Identity):
        def __call__(self, flow_map, x, t, cond=None, generator=None):
            return super().__call__(
                flow_map, x + torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1).sqrt(), t
            )

    sampler = TrajectoryTilting(2, Rooted(), weighting=PathWeights())
    message = str(raised(NonFiniteReward, sampler, noise(1, 4, 2), Tilt(REWARD)))
    assert "the time derivative of Quadratic at its guess is" in message
    assert "for sample 0 at t = 0" in message


def test_noise_levels_are_not_negative():
    assert "at t = 0.5 it is -1" in str(
        raised(ValueError, Sde(2, lambda t: 1 - 4 * t), noise(1, 2, 2), None)
    )


def test_weights_that_come_down_to_one_are_told_of_once():
    """The second prompt's reward is a million times as steep as the first's."""
    tilt = Tilt(Quadratic([1.0, 0.0], 1.0), torch.tensor([1.0, 1e6]))
    with pytest.warns(WeightDegeneracy) as caught:
        result = TrajectoryTilting(6, Identity())(Ball(), noise(2, 8, 2), tilt, None, seeded())
    (warning,) = caught
    assert "of prompt 1 but that of sample" in str(warning.message)
    assert "BestOfN" in str(warning.message)
    t, sample = (
        re.search(pattern, str(warning.message))[1]
        for pattern in (r"t = ([\d.]+) ", r"sample (\d+)")
    )
    first = (result.trace["ess"][:, 1] < 1.01).nonzero()[0, 0]
    assert float(t) == pytest.approx(float(result.trace["t"][first]), rel=1e-3)
    assert 8 <= int(sample) < 16


@pytest.mark.parametrize("sampler", [FkSteering(4, every=1), Sde(4)], ids=["fk", "sde"])
def test_weights_that_stay_many_are_not_told_of(sampler, recwarn):
    sampler(Ball(), noise(2, 8, 2), Tilt(REWARD), None, seeded())
    assert not recwarn


def test_copies_that_no_noise_would_part_are_not_made():
    sampler = TrajectoryTilting(
        4, Identity(), resample_below=1.0, eps=lambda t: 1.0 if t == 0 else 0.0
    )
    assert "copies stay identical without noise: eps is 0 at t = 0.25" in str(
        raised(ValueError, sampler, noise(1, 8, 2), Tilt(Quadratic([1.0, 0.0], 3.0)))
    )
    assert "copies stay identical" in str(
        raised(ValueError, FkSteering(4, every=1, eps=lambda t: 0.0), noise(1, 8, 2), Tilt(REWARD))
    )
    FkSteering(4, every=1, resample_below=0, eps=lambda t: 0.0)(
        Ball(), noise(1, 8, 2), Tilt(REWARD), None, seeded()
    )
    never = TrajectoryTilting(4, Identity(), resample_below=0.0, eps=lambda t: 0.0)
    assert never(Ball(), noise(1, 8, 2), Tilt(REWARD), None, seeded()).x.isfinite().all()


def test_extra_drift_without_noise_cannot_be_weighed():
    sampler = TrajectoryTilting(2, Denoiser(), eps=lambda t: 0.0, chi=lambda t: 1.0)
    assert "eps is 0 at t = 0" in str(raised(ValueError, sampler, noise(1, 2, 2), Tilt(REWARD)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ode(0), "at least one step"),
        (lambda: Ode(2, max_batch=0), "max_batch"),
        (lambda: TrajectoryTilting(2, resample_below=1.5), "fraction"),
        (lambda: TrajectoryTilting(2, chi=math.nan)(Ball(), noise(1, 2, 2), Tilt(REWARD)), "chi"),
        (lambda: TrajectoryTilting(2, Posterior(2), weighting=PathWeights()), "TransitionWeights"),
        (
            lambda: TrajectoryTilting(2, weighting=PathWeights(), trust_radius=1.0),
            "weigh the whole gradient",
        ),
        (lambda: TrajectoryTilting(2, trust_radius=0.0), "above 0; got 0.0"),
        (lambda: TrajectorySearch(2, every=0), "every"),
        (lambda: TrajectorySearch(2, keep=0.0), "keep"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
