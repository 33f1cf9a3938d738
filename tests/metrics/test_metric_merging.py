"""States that are merged, or synchronised over processes, give the number of the joint samples."""

import datetime
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torchmetrics import Metric

from steer.metrics import (
    ClassAgreement,
    EnergyDistance,
    FrechetDistance,
    GridKl,
    HeldoutReward,
    PairwiseDiversity,
    SlicedWasserstein,
)

NAMES = ["energy", "sliced", "frechet", "grid", "diversity", "heldout", "agreement"]


def build(name: str) -> Metric:
    return {
        "energy": EnergyDistance,
        "sliced": SlicedWasserstein,
        "frechet": lambda: FrechetDistance(nn.Identity(), dimension=2),
        "grid": lambda: GridKl(torch.full((4, 4), 1 / 16), -2.0, 2.0),
        "diversity": lambda: PairwiseDiversity(nn.Identity()),
        "heldout": lambda: HeldoutReward(lambda x: x[:, 0]),
        "agreement": lambda: ClassAgreement(nn.Identity()),
    }[name]()


def feed(metric: Metric, prompts: slice) -> Metric:
    """The same 6 prompts of 5 points of the plane on every rank, of which it takes its own."""
    generator = torch.Generator().manual_seed(0)
    x, y, log_w = (
        torch.randn(6, 5, *shape, generator=generator)[prompts] for shape in ((2,), (2,), ())
    )
    if len(x) == 0:
        return metric
    if isinstance(metric, EnergyDistance | SlicedWasserstein):
        metric.update(x.flatten(0, 1), real=False, log_w=log_w.flatten())
        metric.update(y.flatten(0, 1), real=True)
    elif isinstance(metric, FrechetDistance):
        metric.update(x.flatten(0, 1), real=False)
        metric.update(y.flatten(0, 1), real=True)
    elif isinstance(metric, GridKl):
        metric.update(x.flatten(0, 1))
    elif isinstance(metric, ClassAgreement):
        metric.update(x, torch.arange(6)[prompts] % 2, log_w=log_w)
    else:
        metric.update(x, log_w=log_w)
    return metric


def numbers(metric: Metric) -> torch.Tensor:
    value = metric.compute()
    return torch.stack(value) if isinstance(value, tuple) else value[None]


@pytest.mark.parametrize("name", NAMES)
def test_merged_states_give_the_joint_number(name):
    joint = numbers(feed(build(name), slice(0, 6)))
    first, second = feed(build(name), slice(0, 2)), feed(build(name), slice(2, 6))
    first.merge_state(second)
    torch.testing.assert_close(numbers(first), joint)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_merged_with_a_state_is_that_state(name):
    fresh = build(name)
    other = feed(build(name), slice(2, 6))
    fresh.merge_state(other)
    torch.testing.assert_close(numbers(fresh), numbers(other))


@pytest.mark.parametrize("name", NAMES)
def test_declarations(name):
    metric = build(name)
    assert isinstance(metric.is_differentiable, bool)
    assert isinstance(metric.higher_is_better, bool)
    assert metric.full_state_update is False


SHARES = (
    (slice(0, 2), slice(2, 6)),
    (slice(0, 0), slice(0, 6)),  # rank 0 is left without a sample
)


def _rank(rank: int, folder: Path) -> None:
    """Leaves the numbers of every metric, by shares, as this rank computes them."""
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timeout,
    )
    found = [{name: numbers(feed(build(name), mine[rank])) for name in NAMES} for mine in SHARES]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="forks, which is fast and safe there")
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_joint_number(tmp_path: Path):
    joint = {name: numbers(feed(build(name), slice(0, 6))) for name in NAMES}
    mp.start_processes(_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [len(found) for found in ranks] == [len(SHARES)] * 2
    for found in (*ranks[0], *ranks[1]):
        assert found.keys() == joint.keys()
        for name, number in found.items():
            torch.testing.assert_close(number, joint[name], msg=name)
