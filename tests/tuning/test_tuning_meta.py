"""Meta-flow-map tuning and value-gradient matching: where they rest on world M."""

import pytest
import torch
from tilted_world import REWARD, M, between, resting_place
from toys import noise, seeded

from rewards import Linear as LinearReward
from steer.lookahead import Denoiser, Glass, MapJump, Posterior
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.training.times import TimeLaw
from steer.tuning import MetaFlowMap, ValueGradient

pytestmark = pytest.mark.usefixtures("unchecked")  # many samples


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient": "never"},
        {"gradient": "late", "lookahead": Posterior(1)},
        {"gradient": "always", "lookahead": Posterior(1)},
        {"gradient": "always", "lookahead": Posterior(3)},
        {"gradient": "always", "posterior": M, "lookahead": Posterior(1)},
    ],
    ids=["never", "late", "always", "several", "of another map"],
)
def test_it_rests_at_the_tilted_velocity(settings):
    objective = MetaFlowMap(Jump(1), 4, off_weight=0, **settings)
    assert resting_place(objective, REWARD, 6000) == pytest.approx(1.0, abs=0.04)


@pytest.mark.slow
def test_so_it_does_with_draws_through_the_velocity():
    objective = MetaFlowMap(Jump(1), 4, off_weight=0, gradient="always", lookahead=Glass(1, 8))
    assert resting_place(objective, REWARD, 6000) == pytest.approx(1.0, abs=0.04)


def test_a_constant_reward_leaves_it_at_the_base():
    """And r + c is r: the constant is in the normaliser."""
    flat = LinearReward([0.0])
    objective = MetaFlowMap(Jump(1), 4, off_weight=0, lookahead=Posterior(1))
    assert resting_place(objective, flat, 3000) == pytest.approx(0.0, abs=0.02)
    found = []
    for offset in (0.0, 30.0):
        tilt = Tilt(lambda x, offset=offset: REWARD(x) + offset)
        objective = MetaFlowMap(Jump(1), off_weight=0, lookahead=Posterior(1))
        found.append(objective(between(0.5), M, tilt, noise(200, 1), None, seeded(), 0).total)
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-9)


def test_with_many_draws_the_value_is_right_and_with_the_denoiser_it_is_not():
    """The known bias of the posterior mean, on this world nearly twice too far."""
    right = ValueGradient(Jump(1), off_weight=0, on_policy=False, lookahead=Posterior(32))
    assert resting_place(right, REWARD, 4000) == pytest.approx(1.0, abs=0.04)
    biased = ValueGradient(Jump(1), off_weight=0, on_policy=False, lookahead=Denoiser())
    assert resting_place(biased, REWARD, 4000) > 1.3


def test_each_target_is_quiet_where_the_other_is_noisy():
    """The standard deviations of the two targets, early and late."""
    spread = {}
    for t in (0.15, 0.85):
        for gradient in ("never", "always"):
            objective = MetaFlowMap(
                Jump(1), 1, off_weight=0, gradient=gradient, lookahead=Glass(1, 4), times=At(t)
            )
            tilt = Tilt(REWARD)
            kept = objective.collect(between(1.0), M, tilt, noise(1500, 1), None, seeded())
            squares, _ = objective.diagonal(between(1.0), M, tilt, kept, seeded())
            spread[t, gradient] = squares.mean().sqrt().item()
    assert spread[0.15, "never"] < 0.7 * spread[0.15, "always"]
    assert spread[0.85, "always"] < 0.3 * spread[0.85, "never"]


class At(TimeLaw):
    """All times the same."""

    def __init__(self, t):
        self.t = t

    def sample(self, n, generator):
        return torch.full((n,), self.t, dtype=torch.float64)


def test_guesses_that_are_no_draws_are_refused():
    with pytest.raises(ValueError, match=r"needs draws.*Denoiser"):
        MetaFlowMap(lookahead=Denoiser())
    with pytest.raises(ValueError, match=r"infinite.*Denoiser\(\)"):
        ValueGradient(lookahead=MapJump())


def test_labels_have_normalisers_of_their_own():
    """A class of high rewards does not silence another."""
    objective = MetaFlowMap(off_weight=0, gradient="never")
    labels = torch.tensor([0, 0, 1, 1])
    values = torch.tensor([0.0, 0.0, 50.0, 50.0], dtype=torch.float64)
    found = objective.log_normaliser(values, labels)
    torch.testing.assert_close(found, values)
