"""Grid KL against exact sums, and the sampling floor its docstring states."""

import math

import pytest
import torch

from steer.metrics import GridKl, cell_frequencies
from steer.metrics.grid_kl import cell_counts, grid_kl


def checkerboard(n: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform on the 8 dark squares of side 2 of [-4, 4)^2."""
    row, column = (
        torch.randint(4, (n,), generator=generator),
        torch.randint(2, (n,), generator=generator),
    )
    corner = torch.stack([row, 2 * column + row % 2], 1)
    return 2 * (corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)) - 4


def dark(bins: int) -> torch.Tensor:
    square = torch.arange(bins) * 4 // bins
    cells = ((square[:, None] + square) % 2 == 0).double()
    return cells / cells.sum()


def test_counts_are_exact_integers_in_a_known_order():
    """[0, 1)^2 in four cells; the upper edges and the points beyond are outside."""
    x = torch.tensor(
        [[0.0, 0.0], [0.1, 0.5], [0.9, 0.2], [0.9, 0.999], [0.6, 0.6], [1.0, 0.5], [0.5, -0.1]]
    )
    assert cell_counts(x, 2, 0.0, 1.0).tolist() == [1, 1, 1, 2, 2]
    torch.testing.assert_close(cell_frequencies(x, 2, 0.0, 1.0).sum().item(), 5 / 7)


def test_the_sum_written_out():
    """p = (1/2, 1/2, 0), counts (1, 0, 2), a = 3 pseudo-samples: q = (2, 1, 3)/6, KL = log(3/2)/2 +
    log(3)/2.
    """
    kl = grid_kl(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1, 0, 2]), pseudo_samples=3.0)
    assert kl.item() == pytest.approx(0.5 * math.log(1.5) + 0.5 * math.log(3))


def test_a_missed_cell_without_smoothing_is_infinite_and_an_empty_true_cell_costs_nothing():
    true = torch.tensor([0.5, 0.5, 0.0])
    assert grid_kl(true, torch.tensor([4, 0, 0]), pseudo_samples=0.0) == math.inf
    assert grid_kl(true, torch.tensor([3, 3, 0]), pseudo_samples=0.0) == 0


def test_uniform_model_of_twice_the_area_costs_log_2():
    x = 8 * torch.cartesian_prod(torch.arange(64), torch.arange(64)).double() / 64 - 4
    metric = GridKl(dark(32), -4.0, 4.0)
    metric.update(x)
    assert metric.compute().item() == pytest.approx(math.log(2), abs=1e-3)


def test_half_the_model_outside_costs_log_2():
    x = checkerboard(400_000, torch.Generator().manual_seed(0))
    metric = GridKl(dark(8), -4.0, 4.0)
    metric.update(torch.cat([x, x + 100]))
    assert metric.compute().item() == pytest.approx(math.log(2), abs=1e-3)


def test_floor_of_50_000_samples_on_32_by_32():
    """512 occupied cells: 511 / (2 n) = .0051 against the exact law, twice that against 50 000
    other samples: .010.
    """
    generator = torch.Generator().manual_seed(0)
    n = 50_000
    exact = []
    sampled = []
    for _ in range(12):
        x = checkerboard(n, generator)
        for values, true in (
            (exact, dark(32)),
            (sampled, cell_frequencies(checkerboard(n, generator), 32, -4.0, 4.0)),
        ):
            metric = GridKl(true, -4.0, 4.0)
            metric.update(x)
            values.append(metric.compute())
    for values, floor in ((exact, 0.00511), (sampled, 0.01022)):
        runs = torch.stack(values)
        assert abs(runs.mean() - floor) < 4 * runs.std() / 12**0.5 + 0.02 * floor


def test_updates_add_up():
    x = checkerboard(1000, torch.Generator().manual_seed(0))
    whole = GridKl(dark(8), -4.0, 4.0)
    parts = GridKl(dark(8), -4.0, 4.0)
    value = whole(x)
    for part in x.split(300):
        parts.update(part)
    assert parts.compute() == whole.compute() == value


def test_bad_input():
    with pytest.raises(ValueError, match="sum of 4"):
        GridKl(torch.ones(2, 2), 0.0, 1.0)
    with pytest.raises(ValueError, match="low < high"):
        GridKl(torch.ones(2, 2) / 4, 1.0, 1.0)
    metric = GridKl(torch.ones(2, 2) / 4, 0.0, 1.0)
    with pytest.raises(ValueError, match="got none"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    with pytest.raises(ValueError, match="finite"):
        metric.update(torch.tensor([[0.0, math.nan]]))
