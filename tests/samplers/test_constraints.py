"""Hard constraints: a reward of -inf has weight zero where a method weighs, searches or chooses;
gradients refuse it.
"""

import math

import pytest
import torch
from ball import Ball
from zoo import BUILD, FOLLOWS_GRADIENT, noise, seeded

from steer.lookahead import Denoiser, MapJump
from steer.samplers import BestOfN, FkSteering, Jump, Ode, Sde, UnguidedTilting
from steer.samplers.smc.constraints import PENALTY, softened
from steer.samplers.smc.degeneracy import WeightDegeneracy
from steer.tilt import NonFiniteReward, Tilt


def half(x):
    """0 on the half space x_0 > .5, where it rises by x_1, and -inf elsewhere."""
    return torch.where(x[:, 0] > 0.5, x[:, 1], -torch.inf)


def log_z(steps, eps=0.0):
    """log P(x_0 > .5) E[exp(x_1)] for what Euler-Maruyama steps make of standard normal data:
    normal, of a known variance.
    """
    variance = 1.0
    for k in range(steps):
        s = k / steps
        level = eps * (1 - (k + 1) / steps)
        drift = (2 * s - 1 - level) / (s**2 + (1 - s) ** 2)
        variance = (1 + drift / steps) ** 2 * variance + 2 * level / steps
    return math.log(0.5 * math.erfc(0.5 / math.sqrt(2 * variance))) + variance / 2


WEIGHERS = {
    "Ode": Ode(20),
    "Sde": Sde(20),
    "Jump": Jump(2),
    "unguided": UnguidedTilting(
        20,
    ),
    "unguided, denoiser": UnguidedTilting(
        20,
        Denoiser(),
    ),
    "fk": FkSteering(20, every=4),
    "fk, map": FkSteering(20, MapJump(), every=2),
    "fk, max": FkSteering(20, potential="max", every=10),
}


@pytest.mark.parametrize("name", WEIGHERS)
def test_constraints_are_weighed_exactly(name):
    """All of the law within the constraint, although look-aheads call parts of it forbidden on the
    way: Z to 4 %, against the
    closed form of the same chain.
    """
    result = WEIGHERS[name](Ball(), noise(160, 512, 2, seed=5), Tilt(half), None, seeded())
    exact = log_z(0) if name == "Jump" else log_z(20, 0.0 if name == "Ode" else 1.0)
    z = (result.log_z - exact).exp()
    error = z.std().item() / len(z) ** 0.5
    assert error < 0.0125
    assert abs(z.mean().item() - 1) < 3 * error
    assert (result.log_w.softmax(1)[result.x[..., 0] <= 0.5] == 0).all()
    assert not any(values.isnan().any() for values in result.trace.values())


@pytest.mark.parametrize("name", sorted(set(BUILD) - FOLLOWS_GRADIENT))
def test_every_method_without_a_gradient_takes_them(name):
    result = BUILD[name]()(Ball(), noise(2, 16, 2), Tilt(half), None, seeded())
    assert result.x.isfinite().all()
    assert not result.log_w.isnan().any()
    if name in {"BestOfN", "BestOfRounds", "BeamSearch", "RolloverBudgetForcing"}:
        assert result.tilt.max(1).values.isfinite().all()


@pytest.mark.parametrize("name", sorted(FOLLOWS_GRADIENT))
def test_gradient_methods_refuse_them_and_name_those_that_do_not(name):
    with pytest.raises(
        NonFiniteReward, match=r"half is -inf for sample \d+ at t.*UnguidedTilting.*BestOfN"
    ):
        BUILD[name]()(Ball(), noise(2, 16, 2), Tilt(half), None, seeded())


def test_a_prompt_of_which_nothing_is_left_is_warned_of():
    never = Tilt(lambda x: torch.full_like(x[:, 0], -torch.inf))
    with pytest.warns(WeightDegeneracy, match=r"every particle of prompt 0"):
        result = FkSteering(4, every=2)(Ball(), noise(2, 8, 2), never, None, seeded())
    assert (result.log_z == -torch.inf).all()


def test_nan_stops_or_is_rejected():
    def broken(x):
        return torch.where(x[:, 0] > 0.5, x[:, 1], torch.nan)

    x0 = noise(4, 64, 2)
    with pytest.raises(NonFiniteReward, match="broken is nan for sample"):
        Ode(4)(Ball(), x0, Tilt(broken), None, seeded())
    rejected, constrained = (
        BestOfN(Ode(4))(Ball(), x0, tilt, None, seeded())
        for tilt in (Tilt(broken, on_nonfinite="reject"), Tilt(half))
    )
    assert torch.equal(rejected.x, constrained.x)


@pytest.mark.usefixtures("unchecked")
def test_another_treatment_of_nan_is_refused():
    with pytest.raises(ValueError, match="on_nonfinite is 'raise' or 'reject'; got 'ignore'"):
        Tilt(half, on_nonfinite="ignore")


@pytest.mark.parametrize("on_nonfinite", ["raise", "reject"])
def test_infinite_rewards_and_constraints_of_negative_scale_are_refused(on_nonfinite):
    x0 = noise(1, 8, 2)
    with pytest.raises(NonFiniteReward, match="is inf for sample"):
        Ode(2)(Ball(), x0, Tilt(lambda x: -half(x), on_nonfinite=on_nonfinite), None, seeded())
    with pytest.raises(NonFiniteReward, match=r"at a negative scale, half is -inf"):
        Ode(2)(Ball(), x0, Tilt(half, -1.0, on_nonfinite=on_nonfinite), None, seeded())
    assert (Ode(2)(Ball(), x0, Tilt(half, 0.0), None, seeded()).log_w == 0).all()


def test_before_the_end_a_broken_constraint_counts_as_one_less_than_the_mean():
    value = torch.tensor([[1.0, -torch.inf, 3.0, 2.0], [-torch.inf] * 4], dtype=torch.float64)
    assert torch.equal(softened(value, 1.0), value)
    expected = torch.tensor([[1.0, 2 - PENALTY, 3.0, 2.0], [0.0] * 4], dtype=torch.float64)
    assert torch.allclose(softened(value, 0.5), expected)
