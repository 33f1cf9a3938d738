"""Pairwise diversity against the pairs written out."""

import pytest
import torch
from torch import nn

from steer.metrics import PairwiseDiversity, cosine_diversity, euclidean_diversity


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pairs(distance: torch.Tensor) -> torch.Tensor:
    """Mean of the off-diagonal entries."""
    n = len(distance)
    return distance.masked_fill(torch.eye(n, dtype=torch.bool), 0).sum() / (n * (n - 1))


def test_equal_weights_give_the_mean_over_pairs():
    f = normal(9, 4)
    w = torch.full((9,), 1 / 9, dtype=torch.float64)
    cosines = torch.cosine_similarity(f[:, None], f[None], dim=-1)
    torch.testing.assert_close(cosine_diversity(f, w), pairs(1 - cosines))
    torch.testing.assert_close(euclidean_diversity(f, w), pairs(torch.cdist(f, f)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_have_no_diversity_not_even_that_of_rounding(dtype):
    one = torch.randn(80, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for n in (2, 7, 64):
        f = one.expand(n, 80)
        w = torch.linspace(1, 2, n, dtype=dtype).softmax(0)
        assert cosine_diversity(f, w) == 0
        near = f + 1e-2 * torch.randn(
            n, 80, generator=torch.Generator().manual_seed(1), dtype=dtype
        )
        assert cosine_diversity(near, w) > 1e-5


@pytest.mark.parametrize("diversity", [cosine_diversity, euclidean_diversity])
def test_weights_give_what_multinomial_resampling_leaves_on_average(diversity):
    f = normal(6, 3)
    w = normal(6, seed=1).softmax(0)
    n = 6
    generator = torch.Generator().manual_seed(0)
    equal = torch.full((6,), 1 / 6, dtype=torch.float64)
    draws = [
        diversity(f[torch.multinomial(w, n, True, generator=generator)], equal) for _ in range(2000)
    ]
    runs = torch.stack(draws) * (n - 1) / n
    assert abs(runs.mean() - diversity(f, w) * ((n - 1) / n) ** 2) < 4 * runs.std() / 2000**0.5


def test_orthogonal_equal_and_opposite():
    metric = PairwiseDiversity(nn.Identity())
    metric.update(torch.eye(4).expand(2, 4, 4))
    assert metric.compute().item() == pytest.approx(1)
    metric.reset()
    metric.update(3 * torch.ones(1, 4, 2))
    assert metric.compute().item() == pytest.approx(0, abs=1e-12)
    metric.reset()
    metric.update(torch.tensor([[[1.0, 2], [-2, -4]]]))
    assert metric.compute().item() == pytest.approx(2)


def test_one_particle_with_all_the_weight_is_no_diversity():
    metric = PairwiseDiversity(nn.Identity(), distance=euclidean_diversity)
    metric.update(normal(1, 5, 2), torch.tensor([[0.0, -900, -900, -900, -900]]))
    assert metric.compute().item() == pytest.approx(0, abs=1e-12)


def test_images_prompts_and_batches():
    x = normal(5, 6, 1, 4, 4)
    log_w = normal(5, 6, seed=1)
    features = nn.Flatten()
    metric = PairwiseDiversity(features, max_batch=7)
    for prompt in range(5):
        metric.update(x[prompt : prompt + 1], log_w[prompt : prompt + 1])
    each = [cosine_diversity(f.flatten(1), w.softmax(0)) for f, w in zip(x, log_w, strict=True)]
    torch.testing.assert_close(metric.compute(), torch.stack(each).mean())
    torch.testing.assert_close(PairwiseDiversity(features)(x, log_w), metric.compute())


def test_bad_input():
    metric = PairwiseDiversity(nn.Identity())
    with pytest.raises(ValueError, match="at least 2 particles"):
        metric.update(normal(3, 1, 2))
    with pytest.raises(ValueError, match="euclidean_diversity"):
        metric.update(torch.zeros(1, 3, 2))
