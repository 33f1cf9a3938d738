"""A stream's batches depend on the seed, the step and the rank, and on nothing else."""

import itertools

import torch

from steer.data import StepStream, checkerboard, key, ring


def take(n, **stream):
    noise = lambda generator: torch.randn(4, generator=generator)  # noqa: E731
    return list(itertools.islice(StepStream(noise, **stream), n))


def test_resuming_continues_the_stream():
    whole = take(8, seed=3)
    rest = take(5, seed=3, first=3)
    assert all(map(torch.equal, whole[3:], rest))


def test_seed_step_and_rank_all_count():
    batches = [*take(3, seed=0), *take(3, seed=1), *take(3, seed=0, rank=1)]
    assert len({tuple(batch.tolist()) for batch in batches}) == 9


def test_keys_are_stable_and_distinct():
    assert key("step", 0, 1, 2) == key("step", 0, 1, 2)
    keys = {key("step", *parts) for parts in itertools.product(range(12), repeat=3)}
    assert len(keys) == 12**3
    assert max(keys) < 2**63


def test_global_randomness_is_not_consulted():
    torch.manual_seed(0)
    first = take(2, seed=0)
    state = torch.get_rng_state()
    assert all(map(torch.equal, first, take(2, seed=0)))
    assert torch.equal(state, torch.get_rng_state())


def test_checkerboard_is_uniform_on_its_dark_squares():
    x = checkerboard(40_000, torch.Generator().manual_seed(0))
    assert x.abs().max() <= 2
    square = (x + 2).floor().long()
    assert torch.all(square.sum(1) % 2 == 0)
    counts = torch.bincount(4 * square[:, 0] + square[:, 1], minlength=16)
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert (dark / 40_000 - 1 / 8).abs().max() < 0.01


def test_ring_has_the_moments_of_its_mixture():
    x = ring(40_000, torch.Generator().manual_seed(0), modes=8, radius=2.0, std=0.2)
    assert x.mean(0).abs().max() < 0.03
    assert abs(x.square().sum(1).mean().item() - (2.0**2 + 2 * 0.2**2)) < 0.02
