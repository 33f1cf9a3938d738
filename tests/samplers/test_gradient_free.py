"""Search without gradients where the answers are known: on standard normal data every step is a
line plus noise.

Tolerances are four standard errors of the run itself; what the discrete steps do is computed, not
allowed for.
"""

import math
from functools import partial

import pytest
import torch
from ball import Ball
from zoo import noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump, Posterior, one
from steer.samplers import (
    BeamSearch,
    BestOfN,
    BestOfRounds,
    Jump,
    RolloverBudgetForcing,
    Sde,
    Svdd,
)
from steer.samplers.run import Run
from steer.samplers.sde import noisy_step
from steer.tilt import NonFiniteReward, Tilt

FIRST = Tilt(LinearReward([1.0]))  # r = x, on the line
TWO = torch.tensor([1.0, -2.0])  # scales, one per prompt
BEST = {
    2: 1 / math.pi**0.5,
    3: 1.5 / math.pi**0.5,
    5: 1.1629644736,
}  # mean of the largest of so many normal numbers


def phi(x):
    """Uniform where x is normal; a black box."""
    return torch.special.ndtr(torch.from_numpy(x.numpy()[:, 0]))


def close(sample, truth, more=0.0):
    return abs(sample.mean() - truth) < 4 * sample.std() / len(sample) ** 0.5 + more


def factors(steps, eps):
    """Each Euler-Maruyama step x -> f x + n e on Ball as (t, f, n); eps(s, t) is the noise."""
    rows = []
    for k in range(steps):
        s, t, h = k / steps, (k + 1) / steps, 1 / steps
        e = eps(s, t)
        rows.append((t, 1 + h * ((2 * s - 1) - e) / (s**2 + (1 - s) ** 2), (2 * e * h) ** 0.5))
    return rows


def scripted(rewards):
    """A black box for one sample at a time that says these numbers one after another."""
    numbers = iter(rewards)
    return Tilt(lambda x: torch.full((len(x),), next(numbers), dtype=x.dtype))


# --- rounds of best of N ------------------------------------------------------------------------
@pytest.mark.parametrize("jumps", [1, 3])
def test_one_round_is_best_of_n_jumps(jumps):
    x0, tilt = noise(3, 6, 2), Tilt(Quadratic([1.0, 0.0], 3.0), torch.tensor([1.0, -1.0, 2.0]))
    rounds = BestOfRounds(1, jumps=jumps)(Ball(), x0, tilt)
    best = BestOfN(Jump(jumps))(Ball(), x0, tilt)
    assert torch.equal(rounds.x, best.x)
    assert torch.equal(rounds.tilt, best.tilt)
    assert rounds.evaluations == best.evaluations


@pytest.mark.parametrize(("n", "rounds"), [(1, 4), (3, 2), (4, 3)])
def test_rounds_from_noise_are_one_large_round(n, rounds):
    """Back to t = 0 nothing is remembered: E max of R N uniform rewards, R N / (R N + 1); of a
    black box.
    """
    result = BestOfRounds(rounds, 0.0)(Ball(), noise(4000, n, 1), Tilt(phi), None, seeded())
    assert close(result.tilt[:, 0], n * rounds / (n * rounds + 1))


@pytest.mark.parametrize("t", [0.25, 0.7])
def test_a_second_try_from_nearby_is_correlated_with_the_first(t):
    """x' = (t x + (1-t) e) / rho_t has correlation a = t / rho_t with x, and E max(x, x') = sqrt((1
    - a) / pi).
    """
    result = BestOfRounds(2, t)(Ball(), noise(20_000, 1, 1), FIRST, None, seeded())
    assert close(result.tilt[:, 0], ((1 - t / math.hypot(t, 1 - t)) / math.pi) ** 0.5)


def test_the_best_never_falls_and_equal_finds_do_not_displace_it():
    tilt = Tilt(lambda x: x.sum(1).round(), TWO)
    result = BestOfRounds(6, [0.1, 0.3, 0.5, 0.7, 0.9], keep=2)(
        Ball(), noise(2, 5, 2), tilt, None, seeded()
    )
    assert (result.trace["reward"].diff(dim=0) * TWO.sign() >= 0).all()
    assert (result.trace["reward"][-1] != result.trace["reward"][0]).all()
    assert torch.equal(result.trace["reward"][-1], result.tilt.mean(1) / TWO)
    flat = BestOfRounds(3)(Ball(), noise(2, 5, 2), Tilt(lambda x: 0 * x.sum(1)), None, seeded())
    assert torch.equal(flat.x[:, 0], noise(2, 5, 2)[:, 0])


def test_the_kept_share_out_the_candidates():
    """Six candidates at t near 1 of the two best of six lie three and three next to their parents,
    best parent first.
    """
    x0, seen = noise(1, 6, 2), []
    tilt = Tilt(lambda x: seen.append(x.clone()) or x[:, 0])
    result = BestOfRounds(2, 1 - 1e-9, keep=2)(Ball(), x0, tilt, None, seeded())
    parents = x0[0, x0[0, :, 0].argsort(descending=True)[:2]]
    torch.testing.assert_close(seen[1], parents.repeat(3, 1), rtol=0, atol=1e-7)
    assert result.x.shape == (1, 2, 2)
    assert result.tilt[0, 0] >= result.tilt[0, 1] == result.x[0, 1, 0]


# --- beam search --------------------------------------------------------------------------------
def test_as_many_beams_as_particles_are_sde():
    x0, tilt = noise(2, 4, 2), Tilt(LinearReward([1.0, 0.0]))
    searched = BeamSearch(6, 4, every=1)(Ball(), x0, tilt, None, seeded())
    assert torch.equal(searched.x, Sde(6)(Ball(), x0, None, None, seeded()).x)
    assert not searched.trace["resampled"].any()


@pytest.mark.parametrize(("beams", "every"), [(1, 2), (2, 2), (3, 1)])
def test_beams_are_the_best_by_the_map_and_selection_alone_looks_ahead(beams, every):
    """Against an explicit loop; noise never vanishes, but the last step selects nothing."""
    x0, tilt, ball = noise(2, 6, 2), Tilt(Quadratic([1.0, 0.0], 3.0), TWO), Ball()
    run = Run(ball, x0, tilt, None, seeded())
    x, selected = x0.flatten(0, 1), []
    for k in range(1, 8):
        x = noisy_step(run, x, (k - 1) / 7, k / 7, 0.5)
        selected.append(k % every == 0 and k < 7)
        if selected[-1]:
            values = tilt(ball.lookahead(x, k / 7)).unflatten(0, (2, 6))
            order = [row.argsort(descending=True)[:beams].repeat(6 // beams) for row in values]
            x = torch.cat([part[o] for part, o in zip(x.unflatten(0, (2, 6)), order, strict=True)])
    beam = BeamSearch(7, beams, every=every, eps=lambda t: 0.5)(ball, x0, tilt, None, seeded())
    torch.testing.assert_close(beam.x, x.unflatten(0, (2, 6)), rtol=1e-12, atol=1e-14)
    assert beam.trace["resampled"].tolist() == [[due, due] for due in selected]
    assert beam.evaluations.network_forward == 7 + 6 // every


def test_the_best_of_three_half_way_and_what_the_noise_leaves_of_it():
    """One selection after three of six steps: E x1 is the mean of the largest of three, carried
    along the other steps.
    """
    std, carried = 1.0, 1.0
    for k, (_, f, n) in enumerate(factors(6, lambda s, t: 1 - t)):
        std, carried = (math.hypot(f * std, n), 1.0) if k < 3 else (std, carried * f)
    result = BeamSearch(6, every=3)(Ball(), noise(8000, 3, 1), FIRST, None, seeded())
    assert close(result.x.mean((1, 2)), BEST[3] * std * carried)
    assert (result.x[:, 0] != result.x[:, 1]).all()


def test_nothing_branches_before_a_last_step_without_noise():
    result = BeamSearch(4, every=1)(
        Ball(), noise(2, 4, 2), Tilt(LinearReward([1.0, 0.0])), None, seeded()
    )
    assert result.trace["resampled"][:, 0].tolist() == [True, True, False, False]
    assert result.trace["seen_t"].tolist() == [0.25, 0.5, 1.0]
    assert result.trace["reward"].shape == (3, 2)
    assert all(len(x.unique(dim=0)) == 4 for x in result.x)


# --- SVDD ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("eps", [1.0, lambda t: 0.3])
def test_one_proposal_is_sde(eps):
    x0, tilt = noise(2, 4, 2), Tilt(LinearReward([1.0, 0.0]), 5.0)
    watched = Svdd(6, 1, eps=eps)(Ball(), x0, tilt, None, seeded())
    assert torch.equal(watched.x, Sde(6, eps)(Ball(), x0, None, None, seeded()).x)


def chosen_of_two(steps, scale):
    """E x1 under two proposals on Ball, r = x: of f x + n (e1, e2), the logistic choice has mean n
    E[d/2 tanh(k d/2)] more, d = e1 - e2 ~ N(0, 2), k = n scale t / rho_t^2 the slope of the
    denoiser's value.
    """
    d = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-(d**2) / 4) / (4 * math.pi) ** 0.5
    mean = 0.0
    for t, f, n in factors(steps, lambda s, t: (1 - t) / t):
        k = n * scale * t / (t**2 + (1 - t) ** 2)
        mean = f * mean + n * float(torch.trapezoid(density * d / 2 * torch.tanh(k * d / 2), d))
    return mean


def test_the_softmax_of_two_proposals():
    result = Svdd(10, 2)(Ball(), noise(16, 1000, 1), FIRST.with_scale(1.5), None, seeded())
    assert close(result.x.flatten(), chosen_of_two(10, 1.5))


def test_of_short_steps_m_proposals_have_all_but_one_in_m_of_the_pull():
    assert chosen_of_two(800, 1.5) == pytest.approx(
        1.5 / 2, rel=0.01
    )  # where the tilted law has mean 1.5


class ExactValue(Lookahead):
    """A guess whose first coordinate is V_t(x) for r(x) = x_0, so that its reward is the value."""

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        v = flow_map.value(LinearReward([1.0, 0.0]), x, t)
        return one(torch.stack((v, torch.zeros_like(v)), dim=1))


def bias(proposals, steps=20, eps=None):
    """Of the mean x_0 of a mixture tilted by r = x_0, and its standard error."""
    model, reward = (
        GaussianMixture([[-1.5, 0.0], [1.5, 0.5]], 0.7, [0.6, 0.4], steps=8),
        LinearReward([1.0, 0.0]),
    )
    law, _ = model.tilted(reward)
    sampler = Svdd(steps, proposals, ExactValue(), eps=eps)
    x = sampler(model, noise(1, 2000, 2), Tilt(reward), None, seeded()).x[..., 0].flatten()
    return x.mean() - law.weights @ law.means[:, 0], x.std() / len(x) ** 0.5


def test_with_exact_values_the_bias_falls_with_the_proposals():
    """M proposals leave one in M of what one proposal lacks, up to what the discrete steps add."""
    missing = {m: bias(m) for m in (1, 4, 16)}
    whole, spread = missing[1]
    assert whole < -1.5
    for m in (4, 16):
        gap, error = missing[m]
        assert abs(gap - whole / m) < 4 * (error + spread / m)


def test_less_noise_than_memoryless_stays_biased():
    gap, error = bias(16, eps=1.0)
    assert gap < -0.2 - 6 * error


@pytest.mark.slow
def test_noisy_values_do_if_their_exponential_is_unbiased():
    """One draw from the posterior for each proposal does what its mean does, which for these data
    has the exact value.
    """
    for lookahead in (Denoiser(), Posterior(1)):
        x = Svdd(10, 32, lookahead)(Ball(), noise(1, 4000, 1), FIRST, None, seeded()).x.flatten()
        assert close(x, 1.0, more=2 / 32)


def test_svdd_stops_at_a_reward_that_is_not_finite_with_sample_and_time():
    """Samples of the last of three prompts: its first is the ninth of the batch."""
    tilt = Tilt(lambda x, cond: torch.where(cond == 2, torch.nan, x[:, 0]))
    with pytest.raises(NonFiniteReward, match=r"is nan for sample 8 at t = 0\.25;"):
        Svdd(4, max_batch=3)(Ball(), noise(3, 4, 2), tilt, torch.arange(3), seeded())


# --- rollover budget forcing --------------------------------------------------------------------
def test_the_rule_step_by_step():
    """One particle, a quota of three, and a script. The noise is worth 0, which the first step must
    beat.
    """
    said = [
        0.0,
        *(-1.0, 2.0),  # found at the second: one rolls over, the record is 2
        *(1.0, 1.5, 0.5, 1.0),  # four, none above the record: the best, 1.5, and nothing rolls over
        *(1.9, 1.8, 1.9),  # three, none above the record though some above the state: the first 1.9
        3.0,  # at once: two roll over
        *(0.0, 4.0, 5.0, 1.0, 2.0),  # the last with noise: all five are spent, whatever is found
        -7.0,  # where it lands
    ]
    result = RolloverBudgetForcing(6, 3)(Ball(), noise(1, 1, 2), scripted(said), None, seeded())
    assert result.trace["proposals"].flatten().tolist() == [2, 4, 3, 1, 5, 1]
    assert result.trace["reward"].flatten().tolist() == [2.0, 1.5, 1.9, 3.0, 5.0, -7.0]
    assert result.tilt.item() == -7.0


@pytest.mark.parametrize(
    "reward", [lambda x: 0 * x[:, 0], lambda x: x[:, 0], lambda x: x.sin().sum(1)]
)
def test_the_budget_is_used_up_and_never_exceeded(reward):
    steps, quota = 5, 4
    result = RolloverBudgetForcing(steps, quota)(
        Ball(), noise(3, 7, 2), Tilt(reward), None, seeded()
    )
    drawn = result.trace["proposals"]
    assert drawn.shape == (steps, 3, 7)
    assert (drawn.cumsum(0) <= quota * torch.arange(1, steps + 1)[:, None, None]).all()
    assert (drawn.sum(0) == quota * (steps - 1) + 1).all()
    # the noise and all proposals ahead of t = 1 are looked at, which gives every drift
    assert result.evaluations.network_forward == 1 + quota * (steps - 1)
    assert result.evaluations.reward_forward == 2 + quota * (steps - 1)


def test_without_improvement_every_step_spends_its_quota():
    result = RolloverBudgetForcing(5, 4)(
        Ball(), noise(2, 3, 2), Tilt(lambda x: 0 * x[:, 0]), None, seeded()
    )
    assert (result.trace["proposals"] == torch.tensor([4, 4, 4, 4, 1])[:, None, None]).all()


def test_a_quota_of_one_is_sde():
    x0 = noise(2, 4, 2)
    watched = RolloverBudgetForcing(6, 1)(
        Ball(), x0, Tilt(LinearReward([1.0, 0.0])), None, seeded()
    )
    assert torch.equal(watched.x, Sde(6)(Ball(), x0, None, None, seeded()).x)


def test_how_long_the_first_search_lasts():
    """With eps = 1 the first of two steps forgets the noise, whose denoised value is 0: each
    proposal beats it by a toss.
    """
    eps = {"eps": lambda s: 1.0 if s == 0 else 0.1}
    result = RolloverBudgetForcing(2, 4, **eps)(Ball(), noise(50, 400, 1), FIRST, None, seeded())
    drawn = result.trace["proposals"][0].flatten()
    for j, share in ((1, 1 / 2), (2, 1 / 4), (3, 1 / 8), (4, 1 / 8)):
        assert close((drawn == j).double(), share)


def test_the_last_search_takes_the_best_of_its_quota():
    """Two steps, the second without noise: E x1 is the mean of the largest of five."""
    (_, _, n), (_, f, _) = factors(2, lambda s, t: 1 - t)
    result = RolloverBudgetForcing(2, 5)(Ball(), noise(20, 400, 1), FIRST, None, seeded())
    assert close(result.x.flatten(), f * n * BEST[5])


def test_the_network_sees_only_those_that_still_search():
    sizes = []

    class Watched(Ball):
        def velocity(self, x, t, cond=None):
            sizes.append(len(x))
            return super().velocity(x, t, cond)

    result = RolloverBudgetForcing(3, 4)(
        Watched(), noise(2, 8, 2), Tilt(LinearReward([1.0, 0.0])), None, seeded()
    )
    drawn = result.trace["proposals"][:2].flatten(1)
    counts = [
        int((drawn[k] >= j).sum()) for k in range(2) for j in range(1, int(drawn[k].max()) + 1)
    ]
    assert sizes == [16, *counts]
    assert min(sizes) < 16


def test_a_long_search_draws_nothing_from_the_chance_of_another_prompt():
    """The second prompt finds all alike and spends every quota; the first does not notice."""
    x0 = noise(2, 1, 2)
    sampler, reward = RolloverBudgetForcing(5, 30), LinearReward([1.0, 0.0])
    together = sampler(Ball(), x0, Tilt(reward, torch.tensor([1.0, 0.0])), None, seeded())
    alone = sampler(Ball(), x0[:1], Tilt(reward), None, seeded())
    assert torch.equal(together.x[:1], alone.x)
    assert (together.trace["proposals"][:, 0] < together.trace["proposals"][:, 1]).any()


def test_words_follow_those_that_still_search():
    """Each particle is told its own prompt's word, however few of them are left."""
    heard = []

    def reward(x, cond):
        heard.append(cond)
        return torch.tensor([1.0 if word == "up" else -1.0 for word in cond]) * x[:, 0]

    result = RolloverBudgetForcing(4, 6, max_batch=3)(
        Ball(), noise(2, 8, 2), Tilt(reward), ["up", "down"], seeded()
    )
    assert {len(cond) for cond in heard} >= {1, 2, 3}
    better = Sde(4)(Ball(), noise(2, 8, 2), Tilt(reward), ["up", "down"], seeded())
    assert (result.tilt.mean(1) > better.tilt.mean(1)).all()


def test_a_fault_among_those_that_still_search_is_named_by_its_place_in_the_batch():
    """The second sample dislikes each proposal more than the last; asked again when the first has
    found, it fails.
    """
    calls = []

    def reward(x, cond):
        calls.append(len(x))
        alone = len(calls) > 2 and len(x) == 1
        return torch.where(
            cond == 1, torch.nan if alone else -float(len(calls)), float(len(calls))
        ).to(x)

    with pytest.raises(NonFiniteReward, match=r"is nan for sample 1 at t = 0\.25;"):
        RolloverBudgetForcing(4, 6, eps=1.0)(
            Ball(), noise(2, 1, 2), Tilt(reward), torch.arange(2), seeded()
        )


# --- all of them --------------------------------------------------------------------------------
N = 6
COSTS = [
    (BestOfRounds(3), (4 * 3, 4 * 3)),
    (BestOfRounds(3, keep=2, jumps=2), (4 * 3 * 2 / 2, 4 * 3 / 2)),
    (BeamSearch(N, 2, every=2), (N + 2, 3)),
    (BeamSearch(N, 2, Denoiser(), every=4), (N, 2)),  # the look gives the next drift
    (BeamSearch(N, 2, Posterior(3), every=2), (N, 3 * 2 + 1)),
    (BeamSearch(N, 4), (N, 1)),
    (Svdd(N, 3), (1 + 3 * (N - 1), 3 * (N - 1) + 1)),
    (Svdd(N, 3, Identity(), eps=lambda t: 0.1), (N, 3 * N)),
    (RolloverBudgetForcing(N, 3, MapJump()), (N + 1 + 3 * (N - 1), 2 + 3 * (N - 1))),
    (RolloverBudgetForcing(N, 3, Identity(), eps=lambda t: 0.1), (N, 1 + 3 * N)),
]


@pytest.mark.parametrize(("sampler", "expected"), COSTS)
def test_cost_per_returned_sample(sampler, expected):
    e = sampler(
        Ball(), noise(2, 4, 2), Tilt(Quadratic([1.0, 0.0], 3.0), TWO), None, seeded()
    ).evaluations
    assert (e.network_forward, e.reward_forward) == expected
    assert e.network_backward == e.reward_backward == 0


@pytest.mark.parametrize(
    "build", [BestOfRounds, partial(BeamSearch, every=2), Svdd, RolloverBudgetForcing]
)
def test_a_black_box_is_climbed_up_or_down_as_its_prompt_wants(build):
    def black_box(x):
        return torch.from_numpy(x.numpy()[:, 0].round(1))

    found = build(8)(
        Ball(), noise(2, 64, 2), Tilt(black_box, torch.tensor([3.0, -3.0])), None, seeded()
    )
    assert found.log_z is None
    assert not found.log_w.any()
    assert (found.tilt.mean(1) > 0.5).all()
    assert torch.allclose(
        found.tilt, torch.tensor([[3.0], [-3.0]]) * found.x[..., 0].round(decimals=1)
    )
    assert torch.allclose(found.trace["reward"][-1], found.x[..., 0].round(decimals=1).mean(1))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x0, tilt: BestOfRounds(3)(Ball(), x0), "pass tilt="),
        (lambda x0, tilt: BeamSearch(3)(Ball(), x0), "follows a reward; pass tilt="),
        (lambda x0, tilt: Svdd(3)(Ball(), x0), "follows a reward; pass tilt="),
        (lambda x0, tilt: RolloverBudgetForcing(3)(Ball(), x0), "follows a reward; pass tilt="),
        (
            lambda x0, tilt: BestOfRounds(3, keep=7)(Ball(), x0, tilt),
            "keeps 7 of 6 particles; draw more, or keep fewer",
        ),
        (
            lambda x0, tilt: BestOfRounds(3, 1.0),
            r"a time in \[0, 1\), .* 2 rounds after the first; got 1.0",
        ),
        (
            lambda x0, tilt: BestOfRounds(3, [0.5]),
            r"one for each of the 2 rounds after the first; got \[0.5\]",
        ),
        (lambda x0, tilt: BestOfRounds(3, keep=0), "keep >= 1 and jumps >= 1; got keep=0"),
        (
            lambda x0, tilt: BeamSearch(3, 7)(Ball(), x0, tilt),
            "7 beams cannot survive of 6 particles",
        ),
        (lambda x0, tilt: BeamSearch(3, 4)(Ball(), x0, tilt), "a multiple of the beams, 4; got 6"),
        (lambda x0, tilt: BeamSearch(3, 0), "beams >= 1 and every >= 1; got beams=0"),
        (
            lambda x0, tilt: BeamSearch(3, 2, eps=0.0)(Ball(), x0, tilt),
            "copies stay identical without noise: eps is 0 at t = 0.3333;",
        ),
        (lambda x0, tilt: Svdd(3, 0), "at least one proposal; got proposals=0"),
        (
            lambda x0, tilt: Svdd(3, eps=0.0)(Ball(), x0, tilt),
            "proposals stay identical without noise: eps is 0 at t = 0;",
        ),
        (
            lambda x0, tilt: RolloverBudgetForcing(3, 0),
            "at least one proposal per step; got quota=0",
        ),
        (
            lambda x0, tilt: RolloverBudgetForcing(3, eps=lambda t: float(t > 0))(Ball(), x0, tilt),
            "proposals stay identical without noise: eps is 0 at t = 0;",
        ),
    ],
)
def test_refusals(run, message):
    with pytest.raises(ValueError, match=message):
        run(noise(1, 6, 2), Tilt(Quadratic([1.0, 0.0], 3.0)))
