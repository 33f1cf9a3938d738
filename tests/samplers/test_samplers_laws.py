"""What every sampler owes, on a world of standard normal data where all is known."""

import math
from typing import get_args

import pytest
import torch
from ball import Ball
from zoo import BUILD, DETERMINISTIC, DRAWING, STEPS, concrete, noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.lookahead import Denoiser, Identity, MapJump, ShortOde
from steer.progress import shown_by
from steer.resampling import multinomial
from steer.samplers import BestOfN, Sde, TrajectorySearch, TrajectoryTilting, UnguidedTilting
from steer.samplers.base import Claim
from steer.tilt import Tilt

every = pytest.mark.parametrize("name", BUILD)


def liking(x, cond):
    """Some prompts are liked on one side, some on the other; prompts are labels or words."""
    side = torch.tensor([len(c) for c in cond]) if isinstance(cond, list) else cond
    return (2.0 * side.to(x) - 1) * x.flatten(1).sum(1)


def test_every_sampler_says_what_it_claims():
    for cls in concrete():
        assert cls.claim in get_args(Claim), cls
    assert {name for name, build in BUILD.items() if build().claim == "exact"} >= {"Ode", "tds"}


@every
def test_shapes_and_trace(name):
    prompts, particles, shape = 2, 3, (1, 4, 4)
    result = BUILD[name]()(
        Ball(), noise(prompts, particles, *shape), Tilt(liking), torch.tensor([0, 1]), seeded()
    )
    returned = 1 if name in {"BestOfN", "BestOfRounds"} else particles
    assert result.x.shape == (prompts, returned, *shape)
    assert result.log_w.shape == result.tilt.shape == (prompts, returned)
    assert (result.log_z is None) == (BUILD[name]().claim != "exact")
    assert result.claim == BUILD[name]().claim
    assert result.log_z is None or result.log_z.shape == (prompts,)
    assert torch.allclose(result.trace["t"], torch.arange(1, STEPS + 1) / STEPS)
    assert not result.x.requires_grad
    assert not result.log_w.requires_grad


@every
def test_a_prompt_does_not_know_its_batch_mates(name):
    """The first prompt alone, and beside others whose strong tilts make them resample when it does
    not.
    """
    x0, labels, scales = noise(3, 6, 2), torch.tensor([1, 0, 1]), torch.tensor([0.2, 30.0, -30.0])
    together = BUILD[name]()(Ball(), x0, Tilt(liking, scales), labels, seeded())
    alone = BUILD[name]()(Ball(), x0[:1], Tilt(liking, scales[:1]), labels[:1], seeded())
    assert torch.allclose(together.x[:1], alone.x, rtol=1e-12, atol=1e-14)
    assert torch.allclose(together.log_w[:1], alone.log_w, rtol=1e-12, atol=1e-14)
    assert alone.log_z is None or torch.allclose(
        together.log_z[:1], alone.log_z, rtol=1e-12, atol=1e-14
    )
    for key in alone.trace.keys() & {"ess", "resampled", "reward"}:
        assert torch.allclose(
            together.trace[key][:, :1].double(), alone.trace[key].double(), rtol=1e-12
        )


@every
def test_prompts_keep_their_randomness_wherever_they_stand(name):
    """Permuted, and with one left out: what comes back of each prompt goes by its key alone."""
    x0, labels, keys = noise(3, 6, 2), torch.tensor([1, 0, 1]), [7, -3, 2**40]
    scales, order = torch.tensor([0.2, 3.0, 1.0]), [2, 0]
    whole = BUILD[name]()(Ball(), x0, Tilt(liking, scales), labels, seeded(), prompt_keys=keys)
    some = BUILD[name]()(
        Ball(),
        x0[order],
        Tilt(liking, scales[order]),
        labels[order],
        seeded(),
        prompt_keys=[keys[i] for i in order],
    )
    assert torch.allclose(whole.x[order], some.x, rtol=1e-12, atol=1e-14)
    assert torch.allclose(whole.log_w[order], some.log_w, rtol=1e-12, atol=1e-14)
    assert some.log_z is None or torch.allclose(
        whole.log_z[order], some.log_z, rtol=1e-12, atol=1e-14
    )
    if name not in DETERMINISTIC:
        other = BUILD[name]()(
            Ball(), x0, Tilt(liking, scales), labels, seeded(), prompt_keys=[7, -3, 0]
        )
        assert torch.equal(whole.x[0], other.x[0])
        assert not torch.equal(whole.x[2], other.x[2])


def test_keys_are_0_to_P_minus_1_unless_given():
    x0 = noise(3, 4, 2)
    plain, keyed = (
        Sde(STEPS)(Ball(), x0, generator=seeded(), prompt_keys=keys)
        for keys in (None, torch.arange(3))
    )
    assert torch.equal(plain.x, keyed.x)


@pytest.mark.parametrize("name", [name for name in BUILD if name not in DRAWING])
def test_max_batch_changes_memory_and_nothing_else(name):
    x0, tilt, labels = noise(2, 5, 2), Tilt(liking, torch.tensor([1.0, 5.0])), torch.tensor([1, 0])
    whole = BUILD[name]()(Ball(), x0, tilt, labels, seeded())
    for most in (1, 3, 100):
        seen = []
        watched = Tilt(
            lambda x, cond, seen=seen: seen.append(len(x)) or liking(x, cond), tilt.scale
        )
        pieces = BUILD[name](max_batch=most)(Ball(), x0, watched, labels, seeded())
        assert torch.allclose(pieces.x, whole.x, rtol=1e-12)
        assert torch.allclose(pieces.log_w, whole.log_w, rtol=1e-12, atol=1e-14)
        assert max(seen) == min(most, 10)
        assert pieces.evaluations == whole.evaluations


@every
def test_the_generator_is_the_only_chance(name):
    """Equal seeds give equal bits; other seeds others, unless the sampler is deterministic."""
    x0, tilt, labels = noise(2, 4, 2), Tilt(liking), torch.tensor([1, 0])
    first, again, other = (
        BUILD[name]()(Ball(), x0, tilt, labels, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.log_w, again.log_w)
    assert torch.equal(first.x, other.x) == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_particles_have_no_order(name):
    x0, order = noise(2, 5, 2), torch.tensor([3, 0, 4, 1, 2])
    straight, shuffled = (
        BUILD[name]()(Ball(), x, Tilt(liking), torch.tensor([0, 1])) for x in (x0, x0[:, order])
    )
    assert torch.equal(straight.x[:, order], shuffled.x)
    assert torch.equal(straight.log_w[:, order], shuffled.log_w)


@every
@pytest.mark.parametrize("cond", [torch.tensor([1, 0]), ["a", ""]], ids=["labels", "words"])
def test_conditions_reach_the_reward_entry_by_entry(name, cond):
    """Pieces of three samples out of four per prompt: the second piece has some of both prompts."""
    result = BUILD[name](max_batch=3)(Ball(), noise(2, 4, 2), Tilt(liking), cond, seeded())
    side = torch.tensor([[1.0], [-1.0]])
    assert torch.allclose(result.tilt, side * result.x.sum(2), rtol=1e-12)


@every
def test_single_precision_stays_single_and_its_weights_are_double(name):
    result = BUILD[name]()(
        Ball(), noise(2, 4, 2).float(), Tilt(liking), torch.tensor([1, 0]), seeded()
    )
    sums = [result.log_w, result.tilt, *([] if result.log_z is None else [result.log_z])]
    assert result.x.dtype == torch.float32
    assert result.x.isfinite().all()
    assert all(t.dtype == torch.float64 and t.isfinite().all() for t in sums)


@every
def test_weights_are_summed_in_double_precision(name):
    """A reward of 1000, which bfloat16 holds exactly, at samples in bfloat16: log Z is 1000, and
    not what bfloat16 makes of
    a thousand added up in shares.
    """
    thousand = Tilt(lambda x: 1000.0 + 0.0 * x.flatten(1).sum(1))
    result = BUILD[name]()(Ball(), noise(2, 4, 2).bfloat16(), thousand, None, seeded())
    assert (result.tilt == 1000).all()
    assert result.log_z is None or torch.allclose(
        result.log_z, torch.tensor(1000.0).double(), rtol=1e-9
    )


@every
def test_one_particle_has_its_own_weight_for_log_z(name):
    result = BUILD[name]()(Ball(), noise(3, 1, 2), Tilt(liking), torch.tensor([1, 0, 1]), seeded())
    assert result.x.shape == (3, 1, 2)
    assert result.log_z is None or torch.allclose(result.log_z, result.log_w[:, 0])


@every
def test_zero_scale_leaves_everything_as_it_was(name):
    """log Z = 0 exactly and equal weights, and trajectory tilting takes the steps of the Sde."""
    x0, labels = noise(2, 7, 2), torch.tensor([1, 0])
    result = BUILD[name]()(Ball(), x0, Tilt(liking, 0.0), labels, seeded())
    rounding = (
        1e-14 if name in {"renoise", "glass, in pieces"} else 0.0
    )  # of weights that sum to nearly one
    assert result.log_w.abs().max() <= rounding
    assert result.log_z is None or result.log_z.abs().max() <= rounding
    assert all(values.isfinite().all() for values in result.trace.values())
    if (
        isinstance(BUILD[name](), TrajectoryTilting)
        and not BUILD[name]().lookahead.random
        and not isinstance(BUILD[name](), TrajectorySearch)
    ):
        free = Sde(STEPS)(Ball(), x0, generator=seeded())
        assert torch.allclose(result.x, free.x, rtol=1e-12)


@pytest.mark.parametrize("offset", [-1e5, 1e5])
@every
def test_log_z_follows_a_large_offset_of_the_reward(name, offset):
    """Adding a constant to the reward adds it to log Z and moves no sample; nothing overflows."""
    x0 = noise(2, 5, 2)
    near, far = (
        BUILD[name]()(Ball(), x0, Tilt(LinearReward([1.0, 0.0], c)), None, seeded())
        for c in (0.0, offset)
    )
    assert torch.allclose(far.x, near.x, rtol=1e-6)
    assert torch.allclose(far.log_w.softmax(1), near.log_w.softmax(1), rtol=1e-6)
    assert near.log_z is None or torch.allclose(far.log_z - offset, near.log_z, atol=1e-8)


@pytest.mark.parametrize(
    "lookahead", [MapJump(), Denoiser(), Identity(), ShortOde(2)], ids=lambda a: type(a).__name__
)
def test_after_resampling_all_that_is_known_of_a_particle_is_its_own(lookahead):
    """Every step resamples; a fresh look at the survivors agrees with what was re-indexed."""
    moved = []

    class Checked(TrajectoryTilting):
        def resample(self, run, now, chosen):
            after, t = super().resample(run, now, chosen), (run.steps + 1) / STEPS
            fresh = self.look(run, after.x, t, after.log_w, after.log_z)
            pairs = [*zip(after.ahead, fresh.ahead, strict=True), (after.score, fresh.score)]
            for kept, found in pairs:
                assert (kept is None) == (found is None)
                assert kept is None or torch.allclose(kept, found, rtol=1e-10, atol=1e-12)
            assert (after.log_w[chosen] == 0).all()
            moved.append(not torch.equal(after.x, now.x))
            return after

    sampler = Checked(
        STEPS, lookahead, resample_below=1.0, resampling=multinomial
    )  # which always moves some
    result = sampler(Ball(), noise(2, 6, 2), Tilt(Quadratic([1.0, 0.0], 3.0)), None, seeded())
    assert moved == [True] * (STEPS - 2) + [False] * 2  # the last step has no noise to part copies
    assert result.trace["resampled"].tolist() == [[True, True]] * (STEPS - 2) + [[False, False]] * 2


def test_resampling_moves_weight_to_log_z_and_loses_none():
    """log Z is the sum over the stretches between resamplings of the log mean weight, each prompt's
    its own.
    """
    means = []

    class Watched(TrajectoryTilting):
        def resample(self, run, now, chosen):
            due = chosen | (run.steps == 7)
            means.append(torch.where(due, now.log_w.exp().mean(1).log(), 0.0))
            return super().resample(run, now, chosen)

    sampler = Watched(8, resample_below=0.9)
    result = sampler(Ball(), noise(3, 16, 2), Tilt(Quadratic([1.0, 0.0], 1.0)), None, seeded())
    assert 0 < result.trace["resampled"].sum() < 3 * 7
    assert torch.allclose(result.log_z, sum(means), rtol=1e-12)


def test_without_a_threshold_particles_never_meet():
    result = TrajectoryTilting(STEPS, resample_below=0)(
        Ball(), noise(2, 6, 2), Tilt(liking, 50.0), torch.tensor([0, 1])
    )
    assert not result.trace["resampled"].any()
    assert result.trace["ess"].min() < 1.5


def test_the_film_ends_with_the_heaviest_samples():
    sampler = TrajectoryTilting(6, Denoiser(), film=2, film_every=2)
    result = sampler(Ball(), noise(3, 5, 1, 2, 2), Tilt(liking), torch.tensor([0, 1, 1]), seeded())
    assert result.trace["film"].shape == (3, 3, 2, 1, 2, 2)
    assert torch.allclose(result.trace["film_t"], torch.tensor([2 / 6, 4 / 6, 1.0]))
    heaviest = result.log_w.argsort(dim=1, descending=True)[:, :2]
    assert torch.allclose(result.trace["film"][-1], result.x[torch.arange(3)[:, None], heaviest])
    assert set(result.trace) == {
        *("t", "ess", "resampled", "reward", "level", "thermodynamic_length", "total_discrepancy"),
        *("film", "film_t"),
    }
    assert (
        result.trace["ess"].shape
        == result.trace["resampled"].shape
        == result.trace["reward"].shape
        == (6, 3)
    )


def test_the_traced_reward_is_unscaled_and_of_the_weighted_population():
    tilt = Tilt(liking, torch.tensor([0.5, -2.0]))
    result = TrajectoryTilting(STEPS)(Ball(), noise(2, 6, 2), tilt, torch.tensor([1, 1]), seeded())
    expected = (result.log_w.softmax(1) * result.x.sum(2)).sum(1)
    assert torch.allclose(result.trace["reward"][-1], expected)


def test_a_black_box_reward_is_tilted_to_without_guidance():
    """r = 1 on the right half: Z = (1 + e) / 2, with no gradient anywhere."""

    def right(x):
        return torch.from_numpy((x.numpy()[:, 0] > 0).astype("float64"))

    result = UnguidedTilting(
        20,
    )(Ball(), noise(16, 256, 1), Tilt(right), None, seeded())
    error = result.log_z.std() / 4
    assert abs(result.log_z.mean() - math.log((1 + math.e) / 2)) < 4 * error + 0.01


def test_search_returns_the_lookahead_reward_it_selected_by():
    tilt, x0 = Tilt(LinearReward([1.0, 0.0])), noise(4, 16, 2)
    found = BUILD["search"]()(Ball(), x0, tilt, None, seeded())
    assert found.log_z is None
    assert torch.equal(found.log_w, torch.zeros(4, 16, dtype=torch.float64))
    assert found.trace["resampled"].tolist() == [
        [step % 2 == 1 and step < STEPS - 1] * 4 for step in range(STEPS)
    ]
    assert torch.allclose(found.tilt, found.x[..., 0])


def test_the_loop_shows_its_steps_to_whoever_wants_a_bar():
    seen = []
    with shown_by(lambda steps: (seen.append(step) or step for step in steps)):
        Sde(STEPS)(Ball(), noise(1, 2, 2))
    assert seen == [(k / STEPS, (k + 1) / STEPS) for k in range(STEPS)]


def test_best_of_n_keeps_the_best_of_what_its_base_drew():
    x0, tilt, labels = (
        noise(3, 6, 2),
        Tilt(liking, torch.tensor([1.0, 1.0, -1.0])),
        torch.tensor([1, 0, 1]),
    )
    drawn, best = (
        Sde(STEPS)(Ball(), x0, tilt, labels, seeded()),
        BestOfN(Sde(STEPS))(Ball(), x0, tilt, labels, seeded()),
    )
    assert torch.equal(best.tilt[:, 0], drawn.tilt.max(1).values)
    assert torch.equal(best.x[:, 0], drawn.x[torch.arange(3), drawn.tilt.argmax(1)])
