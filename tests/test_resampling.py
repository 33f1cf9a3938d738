"""Resampling: unbiased, as even as each scheme promises, rows apart, and chance from the generator
alone.
"""

import math

import pytest
import torch

from steer.resampling import effective_sample_size, multinomial, residual, stratified, systematic

SCHEMES = [systematic, stratified, multinomial, residual]
N = 7
ROWS = 20_000
W = torch.tensor([0.31, 0.02, 0.0, 0.17, 0.05, 0.29, 0.16], dtype=torch.float64)

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.__name__)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def children(ancestors):
    """How many children each particle has, (P, N)."""
    return torch.zeros(ancestors.shape, dtype=torch.float64).scatter_add_(
        1, ancestors, torch.ones(ancestors.shape).double()
    )


def many(scheme, w=W):
    return children(scheme(w.log().expand(ROWS, -1), generator()))


@every_scheme
def test_mean_number_of_children_is_n_w(scheme):
    """Within 4.5 standard errors in each of 7 places; a false alarm once in 20 000 seeds."""
    counts = many(scheme)
    error = (counts.mean(0) - N * W).abs()
    assert (error <= 4.5 * counts.std(0) / math.sqrt(ROWS) + 1e-12).all()
    assert (counts.sum(1) == N).all()
    assert (counts[:, 2] == 0).all()  # no weight, no children


def test_multinomial_has_the_multinomial_covariance():
    counts = many(multinomial)
    expected = N * (torch.diag(W) - W[:, None] * W)
    fourth = ((counts - N * W)[:, :, None] * (counts - N * W)[:, None]).std(0) / math.sqrt(ROWS)
    assert ((torch.cov(counts.T) - expected).abs() <= 4.5 * fourth + 1e-12).all()


def test_systematic_rounds_n_w_down_or_up():
    counts = many(systematic)
    assert (counts >= (N * W).floor()).all()
    assert (counts <= (N * W).ceil()).all()


def test_residual_gives_every_whole_child():
    assert (many(residual) >= (N * W).floor()).all()


def test_stratified_misses_n_w_by_less_than_two():
    assert ((many(stratified) - N * W).abs() < 2).all()


def test_the_finer_schemes_vary_less():
    spread = {scheme: (many(scheme) - N * W).square().sum(1).mean() for scheme in SCHEMES}
    assert spread[systematic] < spread[multinomial]
    assert spread[stratified] < spread[multinomial]
    assert spread[residual] < spread[multinomial]


@pytest.mark.parametrize("scheme", [systematic, stratified, residual], ids=lambda s: s.__name__)
def test_whole_numbers_of_children_leave_nothing_to_chance(scheme):
    w = torch.tensor([3.0, 0, 1, 2, 0, 4, 0, 0, 0, 0], dtype=torch.float64) / 10
    log_w = w.log()
    counts = children(scheme(log_w.expand(500, -1), generator()))
    assert (counts == 10 * w).all()


@pytest.mark.parametrize("scheme", [systematic, stratified, residual], ids=lambda s: s.__name__)
def test_equal_weights_leave_every_particle_where_it_is(scheme):
    for n in (1, 2, 3, 10, 1000):
        assert (scheme(torch.full((3, n), -1.7), generator()) == torch.arange(n)).all()


@every_scheme
def test_one_particle_with_all_the_weight(scheme):
    log_w = torch.full((3, N), -torch.inf)
    log_w[torch.arange(3), torch.tensor([0, 4, 6])] = -1e4
    assert (scheme(log_w, generator()) == torch.tensor([0, 4, 6])[:, None]).all()


@every_scheme
@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_unit_interval_find_a_particle_with_weight(scheme, u, monkeypatch):
    monkeypatch.setattr(
        "steer.resampling._uniform",
        lambda shape, like, _: torch.full(shape, u, dtype=torch.float64),
    )
    assert (scheme(torch.tensor([[0.0, 0.5, 0.5, 0.0]]).log(), generator()) % 3 != 0).all()


@every_scheme
def test_a_constant_does_not_matter(scheme):
    log_w = torch.randn(50, N, generator=generator(1), dtype=torch.float64)
    a = scheme(log_w, generator())
    assert (scheme(log_w + 1000.0, generator()) == a).all()
    assert (scheme(log_w - 1000.0, generator()) == a).all()


@every_scheme
def test_chance_is_the_generator_alone(scheme):
    log_w = W.log().expand(100, -1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (scheme(log_w, generator(seed)) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.get_rng_state() == state).all()


@every_scheme
def test_rows_do_not_see_each_other(scheme):
    """What happens to a row is the same whatever weights the rows before it have."""
    log_w = torch.randn(8, N, generator=generator(1), dtype=torch.float64)
    other = log_w.clone()
    other[:4] = torch.randn(4, N, generator=generator(2), dtype=torch.float64)
    other[0] = 0.0
    assert (scheme(log_w, generator())[4:] == scheme(other, generator())[4:]).all()


@every_scheme
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_weights_is_refused(scheme, bad):
    log_w = torch.zeros(3, 2)
    log_w[1] = bad
    with pytest.raises(ValueError, match="row 1 of the log weights has NaN"):
        scheme(log_w, generator())


def test_effective_sample_size_is_between_one_and_n():
    log_w = torch.tensor(
        [[0.0, 0, 0, 0], [0, -torch.inf, -torch.inf, -torch.inf], [0, 0, -torch.inf, -torch.inf]]
    )
    assert effective_sample_size(log_w).tolist() == [4, 1, 2]
    w = torch.rand(5, N, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(w.log()), w.sum(1) ** 2 / w.square().sum(1))


def test_effective_sample_size_keeps_its_digits_under_large_constants():
    log_w = torch.randn(5, 64, generator=generator()) * 8
    log_w = log_w.round() / 8  # so that adding the constant is exact
    torch.testing.assert_close(
        effective_sample_size(log_w + 2.0**16), effective_sample_size(log_w), rtol=1e-6, atol=0
    )
