"""Result.resampled: a fair unweighted sample of a weighted population, whatever its order; closed
forms in float64.
"""

from itertools import combinations

import pytest
import torch

from steer.analytic import ring
from steer.analytic.benchmarks import WORLDS
from steer.counting import Evaluations
from steer.resampling import unweighted
from steer.samplers import Result

DRAWS = 6000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def repeated(log_w, n, seed=0):
    """(DRAWS, n) places, each row drawn from the same weights by a key of its own."""
    return unweighted(log_w.expand(DRAWS, -1), n, generator(seed))


@pytest.mark.parametrize("n", [1, 3, 8, 13])
def test_every_place_holds_every_particle_as_often_as_its_weight_says(n):
    log_w = torch.tensor(
        [[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02, 0.0]], dtype=torch.float64
    ).log()  # in order
    w, kept = log_w.exp()[0], repeated(log_w, n)
    for place in range(n):
        found = torch.bincount(kept[:, place], minlength=8) / DRAWS
        assert ((found - w).abs() <= 4 * (w * (1 - w) / DRAWS).sqrt()).all()
    counts = torch.stack([torch.bincount(row, minlength=8) for row in kept[:1000]]).double()
    assert ((counts - n * w).abs() < 1).all()  # rounded down or up


def test_equal_weights_give_every_subset_alike_and_no_particle_twice():
    kept = repeated(torch.full((1, 6), 2.5, dtype=torch.float64), 3).sort(dim=1).values
    subsets = list(combinations(range(6), 3))
    code = kept @ torch.tensor([36, 6, 1])
    found = torch.tensor([(code == 36 * a + 6 * b + c).sum() for a, b, c in subsets]) / DRAWS
    assert found.sum() == 1
    share = 1 / len(subsets)
    assert ((found - share).abs() < 4.5 * (share * (1 - share) / DRAWS) ** 0.5).all()


def test_neighbours_in_a_population_of_clones_are_kept_together_as_often_as_any_pair():
    """Sorted by ancestor, two of each: a comb over the order as it stands would never keep two of a
    kind.
    """
    kept = repeated(torch.zeros(1, 8, dtype=torch.float64), 3) // 2
    alike = (kept[:, :, None] == kept[:, None, :]).double().sum((1, 2)) - 3
    found = alike / 6  # of the ordered pairs of three
    assert abs(float(found.mean()) - 1 / 7) < 4 * float(found.std()) / DRAWS**0.5


def test_the_law_of_what_is_kept_is_the_tilted_law():
    """A weighted population sorted by its reward, of a world whose tilted law is known: mean and
    mode weights of the kept.
    """
    world, prompts, particles, n = WORLDS["uneven"](), 1500, 600, 8
    x = world.flow_map.sample(prompts * particles, generator(1))
    log_w = world.reward(x).unflatten(0, (prompts, particles))
    order = log_w.argsort(dim=1, descending=True)
    x = x.unflatten(0, (prompts, particles)).gather(1, order[..., None].expand(-1, -1, 2))
    result = Result(x, log_w.gather(1, order), None)
    kept = result.resampled(n, generator(2))
    assert kept.shape == (prompts, n, 2)
    modes = world.responsibilities(kept.flatten(0, 1)).unflatten(0, (prompts, n))
    for found, truth in ((kept, world.mean), (modes, world.weights)):
        means = found.mean(1)
        noise = means.std(0) / prompts**0.5
        bias = 3 / particles  # of self-normalised weights, in the order of 1 / N
        assert ((means.mean(0) - truth).abs() < 4 * noise + bias).all()
    first = x[:, :n].mean((0, 1))  # what keeping the first would make of it
    assert (first - world.mean).abs().max() > 0.3


def test_diversity_of_three_of_eight_is_that_of_random_three():
    """Eight particles, two of each ancestor, in order; the exact mean distance is that over all
    pairs.
    """
    world = ring()
    x = world.sample(4, generator(3)).repeat_interleave(2, dim=0)
    x = x + 0.05 * torch.randn(8, 2, generator=generator(4), dtype=torch.float64)
    distance = torch.cdist(x, x)
    exact = sum(distance[i, j] for i, j in combinations(range(8), 2)) / 28
    result = Result(x.expand(4000, -1, -1), torch.zeros(4000, 8, dtype=torch.float64), None)
    kept = result.resampled(3, generator(5))
    found = torch.cdist(kept, kept).sum((1, 2)) / 6
    assert (
        abs(float(found.mean() - exact)) < 4 * float(found.std()) / 4000**0.5 < 0.05 * float(exact)
    )
    first = torch.cdist(x[:3], x[:3]).sum() / 6
    assert first < 0.9 * exact


def test_a_prompt_does_not_know_of_the_others():
    log_w = torch.randn(5, 40, generator=generator(6), dtype=torch.float64)
    whole = unweighted(log_w, 7, generator(1))
    some = unweighted(log_w[[3, 1]], 7, generator(1), prompt_keys=[3, 1])
    assert torch.equal(some, whole[[3, 1]])
    assert not torch.equal(unweighted(log_w[:1].expand(2, -1), 7, generator(1))[0], whole[1])
    assert not torch.equal(unweighted(log_w, 7, generator(2)), whole)


def test_a_weight_of_nothing_is_never_kept_and_a_result_keeps_its_shape():
    log_w = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0]])
    assert set(unweighted(log_w, 50, generator()).flatten().tolist()) == {1, 3}
    x = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 1, 2, 2)
    result = Result(x, log_w, None, evaluations=Evaluations(1))
    assert result.resampled(9).shape == (1, 9, 1, 2, 2)


@pytest.mark.parametrize(
    ("n", "keys", "log_w", "says"),
    [
        (0, None, torch.zeros(2, 3), "keeps at least 1 sample of each prompt; got 0"),
        (1, [4], torch.zeros(2, 3), "one integer per prompt, 2 of them; got 1"),
        (1, None, torch.full((2, 3), -torch.inf), "row 0 of the log weights"),
    ],
)
def test_bad_input_is_named(n, keys, log_w, says):
    with pytest.raises(ValueError, match=says):
        Result(torch.zeros(2, 3, 1), log_w, None).resampled(n, prompt_keys=keys)
