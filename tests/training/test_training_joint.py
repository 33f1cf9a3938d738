"""Joint: the split of the batch, the sum of the parts, and the laws of times."""

import math

import pytest
import torch
from exact_map import exact_map, generator, pairs
from scipy import stats

from steer.training import (
    FlowMatching,
    Joint,
    Lagrangian,
    LogitNormal,
    Loss,
    MeanFlow,
    Objective,
    PairObjective,
    SortedPair,
    Uniform,
)


class Diagonal(Objective):
    """Notes what it is given and returns the mean of x1's first entry."""

    def forward(self, flow_map, x0, x1, cond, generator, step):
        self.x0 = x0
        self.x1 = x1
        self.cond = cond
        self.step = step
        return Loss(x1[:, 0].mean(), {"diagonal": x1[:, 0].mean().detach()})


class Off(PairObjective):
    """The same for the rest, returning ten times that entry of each sample."""

    x1 = None

    def __call__(self, student, target, pairs, generator):
        self.x0, self.x1, self.s, self.t, self.cond = pairs[:5]
        self.target = target
        return 10 * pairs.x1[:, 0]


def split(batch, **settings):
    step = settings.pop("step", 0)
    cond = settings.pop("cond", None)
    diagonal = Diagonal()
    off = Off()
    x1 = torch.arange(batch, dtype=torch.float64)[:, None].expand(batch, 2)
    loss = Joint(diagonal, off, **settings)(exact_map(), -x1, x1, cond, generator(), step)
    return diagonal, off, loss


@pytest.mark.parametrize(
    ("batch", "fraction", "on_the_diagonal"),
    [
        (8, 0.75, 6),
        (64, 0.75, 48),
        (10, 0.25, 2),
        (4, 1.0, 4),
        (8, 0.01, 1),
        (8, 0.999, 7),
        (2, 0.75, 1),
        (1, 0.5, 1),
    ],
)
def test_the_batch_is_split_by_the_fraction(batch, fraction, on_the_diagonal):
    """Each sample goes to one side; below 1 the rest of at least two samples is never empty."""
    diagonal, off, _ = split(batch, diag_fraction=fraction)
    assert len(diagonal.x1) == on_the_diagonal
    seen = diagonal.x1 if off.x1 is None else torch.cat((diagonal.x1, off.x1))
    assert seen[:, 0].tolist() == list(range(batch))


def test_pairs_and_conditions_stay_together():
    for cond in (torch.arange(8), [str(i) for i in range(8)]):
        diagonal, off, _ = split(8, cond=cond)
        assert list(diagonal.cond) == list(cond[:6])
        assert list(off.cond) == list(cond[6:])
        assert torch.equal(off.x0, -off.x1)
        assert torch.equal(diagonal.x0, -diagonal.x1)


def test_the_total_is_the_sum_of_the_means():
    _, _, loss = split(8)
    assert loss.terms == {"diagonal": 2.5, "off_diagonal": 65.0}
    assert loss.total == 67.5
    assert not any(term.requires_grad for term in loss.terms.values())


def test_the_whole_batch_warms_up_on_the_diagonal():
    for step, off_diagonal in ((0, 0), (9, 0), (10, 2), (11, 2)):
        diagonal, off, loss = split(8, diag_only_steps=10, step=step)
        assert diagonal.step == step
        assert len(diagonal.x1) == 8 - off_diagonal
        assert (off.x1 is None) == ("off_diagonal" not in loss.terms) == (off_diagonal == 0)


def test_without_an_off_diagonal_it_is_the_diagonal():
    x0, x1, _, _ = pairs(32)
    joint, alone = (
        o(exact_map(), x0, x1, None, generator(), 0)
        for o in (Joint(FlowMatching()), FlowMatching())
    )
    assert joint.total == alone.total
    assert joint.terms.keys() == {"diagonal"}


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, math.nan])
def test_the_fraction_is_a_fraction(fraction):
    with pytest.raises(
        ValueError,
        match=r"diag_fraction is the part of the batch on the diagonal, in \(0, 1\]; got",
    ):
        Joint(FlowMatching(), Lagrangian(), diag_fraction=fraction)


@pytest.mark.parametrize("off", [Lagrangian(), MeanFlow()], ids=lambda o: type(o).__name__)
def test_all_chance_is_the_generators(off):
    x0, x1, _, _ = pairs(32)
    objective = Joint(FlowMatching(LogitNormal()), off)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (
        objective(exact_map(bend=0.1), x0, x1, None, generator(k), 0).total for k in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_every_parameter_of_the_map_is_taught():
    flow_map = exact_map(std=0.9, bend=0.3, lean=0.2)
    x0, x1, _, _ = pairs(32)
    Joint(FlowMatching(), Lagrangian())(flow_map, x0, x1, None, generator(), 0).total.backward()
    assert all(p.grad.abs().min() > 0 for p in flow_map.parameters())


# Laws of times, by Kolmogorov and Smirnov at a level of one in ten thousand


def test_uniform_times():
    t = Uniform().sample(20_000, generator())
    assert t.dtype == torch.float32
    assert stats.kstest(t.numpy(), "uniform").pvalue > 1e-4


def test_logit_normal_times():
    t = LogitNormal(-0.4, 1.3).sample(20_000, generator())
    assert stats.kstest(torch.logit(t.double()).numpy(), "norm", args=(-0.4, 1.3)).pvalue > 1e-4
    assert 0 < t.min() < t.max() < 1


def test_sorted_pairs_are_order_statistics():
    """Of two uniforms, the smaller has distribution function 1 - (1-s)^2 and the larger t^2."""
    s, t = SortedPair().sample(20_000, generator())
    assert (s <= t).all()
    assert stats.kstest(s.numpy(), lambda u: 1 - (1 - u) ** 2).pvalue > 1e-4
    assert stats.kstest(t.numpy(), lambda u: u**2).pvalue > 1e-4
