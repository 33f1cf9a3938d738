"""Methods of the literature by name: each, trained for a few seconds, finds its map."""

import math

import pytest
import torch
from exact_map import MEAN, STD, exact_map, generator
from selection import slow_but

from steer.flow_map import OdeMap
from steer.training import METHODS, Adaptive, Grouped, LogitNormal, Plain, Uniform, named

TEACHER = {"mean": (0.5, 0.8), "std": 0.8}  # another Gaussian than that of the data
NAMES = [method.name for method in METHODS]

# What is learned from cell to cell of a grid takes long over many cells, the more so with a long
# moving average: a few cells, and for cd the average of a run of 40 steps.
GRID = {"progressive": 4, "cd": 4}
PLANNED = {"cd": 40}


def build(method, student, steps):
    teacher = exact_map(**TEACHER)
    if method.name == "progressive":
        teacher = OdeMap(teacher, teacher.schedule, steps=4)
    return named(
        method.name, PLANNED.get(method.name, steps), student, teacher, GRID.get(method.name, 32)
    )


def train(objective, student, steps, batch=128, lr=0.05):
    optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    g = generator(1)
    for step in range(steps):
        x0, z = torch.randn(2, batch, 2, generator=g, dtype=torch.float64)
        x1 = torch.tensor(MEAN, dtype=torch.float64) + STD * z
        optimizer.zero_grad()
        objective(student, x0, x1, None, g, step).total.backward()
        optimizer.step()
        decay.step()
    return student


def landing(flow_map, jumps=1):
    """Mean and spread after equal jumps from noise; a jump is affine up to `bend`."""
    x = torch.randn(20_000, 2, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        for k in range(jumps):
            x = flow_map(x, k / jumps, (k + 1) / jumps)
    return torch.cat((x.mean(0), x.std(0)))


# The error of a method's mean and spread: noise of the short training, and where a paper's own form
# is biased, that bias: CT and ECM by the stride that is left, adaptive weights by the skew of the
# residuals (none for a Gaussian).
TOLERANCE = {"ct": 0.15, "ecm": 0.1, "imm": 0.15, "ctm": 0.1}
USUAL = 0.05
# One of each identity.
QUICK = [
    "lsd",
    "esd-avg",
    "psd-m",
    "shortcut",
    "meanflow",
    "ct",
    "fmm",
    "imm",
    "ctm",
    "progressive",
]  # of each identity


@pytest.mark.parametrize("method", slow_but(QUICK, METHODS, NAMES))
def test_every_method_finds_its_map(method):
    """From data the Gaussian of the data, from a teacher its own, by one jump (or the grid's)."""
    student = exact_map(mean=(0.0, 0.0), std=1.3, bend=0.3)
    steps = 300
    objective = build(method, student, steps)
    law = {"mean": MEAN, "std": STD}
    if method.source == "teacher" and method.name != "ctm":
        law = TEACHER
    wanted = torch.tensor([*law["mean"], law["std"], law["std"]], dtype=torch.float64)
    jumps = GRID["progressive"] if method.name == "progressive" else 1
    before = (landing(student, jumps) - wanted).abs().max()
    after = (landing(train(objective, student, steps), jumps) - wanted).abs().max()
    assert before > 0.4
    if objective.off_diagonal is None:  # the tangent alone: the bend off the diagonal stays
        assert student.network.bend == 0.3
    elif method.name != "ctm":  # whose data and teacher disagree here: see below
        tolerance = TOLERANCE.get(method.name, USUAL)
        assert after < tolerance, (after, dict(student.network.named_parameters()))


def test_ctm_finds_its_map_where_teacher_and_data_agree():
    student = exact_map(mean=(0.0, 0.0), std=1.3, bend=0.3)
    train(named("ctm", 300, student, exact_map()), student, 300)
    wanted = torch.tensor([*MEAN, STD, STD], dtype=torch.float64)
    assert (landing(student) - wanted).abs().max() < TOLERANCE["ctm"]


def test_names_are_unique_and_papers_given():
    assert len(set(NAMES)) == len(NAMES)
    for method in METHODS:
        assert "arXiv" in method.paper
        sources = build(method, exact_map(), 100).learns_from
        assert method.source == ("teacher" if "a teacher" in sources else "data")
        assert sources


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no training method is called 'lds'; did you mean 'lsd'"):
        named("lds", 100)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("lmd", "teacher="), ("shortcut", "student="), ("cd", "teacher=|student=")],
)
def test_what_a_method_needs_is_asked_for(name, missing):
    with pytest.raises(ValueError, match=missing):
        named(name, 100)


@pytest.mark.parametrize("name", ["ct", "ecm", "sct", "cd", "scd", "knowledge-distillation"])
def test_consistency_models_learn_jumps_to_data_alone(name):
    joint = build(next(method for method in METHODS if method.name == name), exact_map(), 100)
    s, t = joint.pairs.sample(100, generator())
    assert joint.pairs.to_data
    assert (t == 1).all()
    assert (s == 0).all() == (name == "knowledge-distillation")


def test_the_mean_flow_law_of_times_is_the_papers_turned_around():
    """There noise is at 1 and t ~ sigmoid(N(-.4, 1)); here 1 - t has that law."""
    s = named("meanflow", 100).pairs.law.sample(20_000, generator())
    logit = torch.logit(1 - s.double())
    assert abs(logit.mean() + 0.4) < 4.5 / math.sqrt(20_000)


# Other settings than the papers'


def test_settings_change_what_they_name_and_nothing_else():
    paper = named("imf", 100)
    plane = named("imf", 100, times=Uniform(), weighting=Plain())
    assert isinstance(paper.weighting, Adaptive)
    assert isinstance(paper.diagonal.weighting, Adaptive)
    assert isinstance(plane.weighting, Plain)
    assert isinstance(plane.diagonal.weighting, Plain)
    assert isinstance(plane.diagonal.times, Uniform)
    assert isinstance(plane.pairs.law, Uniform)
    assert (plane.diag_fraction, plane.off_weight) == (paper.diag_fraction, paper.off_weight)
    assert type(plane.off_diagonal) is type(paper.off_diagonal)
    half = named("imf", 100, diag_fraction=0.5, off_weight=1.0)
    assert (half.diag_fraction, half.off_weight) == (0.5, 1.0)
    assert isinstance(half.pairs.law, LogitNormal)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_method_takes_times_or_says_why_not(method):
    teacher = exact_map(**TEACHER)
    grid = GRID.get(method.name, 32)
    law = LogitNormal(3.0, 0.1)

    def changed():
        return named(
            method.name, 100, exact_map(), teacher, grid, times=law, weighting=Adaptive(0.5)
        )

    pairs = build(method, exact_map(), 100).pairs
    if not pairs.takes_times:
        with pytest.raises(ValueError, match=rf"{type(pairs).__name__}.*leave times out"):
            changed()
        return
    joint = changed()
    assert isinstance(joint.weighting, Adaptive)
    s, _ = joint.pairs.sample(400, generator())
    assert 0.93 < s.mean() < 0.96  # sigmoid(3) = .953
    if joint.diagonal is not None:
        assert joint.diagonal.times is law
    assert isinstance(joint.pairs, Grouped) == (method.name == "imm")


def test_a_setting_that_joint_does_not_have_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match="Joint has no setting 'off_wieght'; did you mean 'off_weight'"
    ):
        named("lsd", 100, off_wieght=2.0)
    with pytest.raises(
        ValueError, match=r"^Joint has no setting 'x'; there are: diagonal, off_diagonal"
    ):
        named("lsd", 100, x=2.0)


def test_where_the_papers_are_departed_from_is_said():
    departs = {method.name: method.departs for method in METHODS}
    for name, word in {
        "imf": "diag_fraction=.5",
        "meanflow": "norm_eps",
        "alpha-flow": "diagonal",
        "lmd": "stops the gradient",
        "emd": "stops the gradient",
        "imm": "paired=True",
    }.items():
        assert word in departs[name]


def test_times_are_not_rounded_where_bfloat16_is_the_default():
    torch.set_default_dtype(torch.bfloat16)
    try:
        for method in METHODS:
            joint = build(method, exact_map(), 100)
            if joint.off_diagonal is not None:
                assert all(
                    time.dtype == torch.float32 for time in joint.pairs.sample(4, generator())
                )
    finally:
        torch.set_default_dtype(torch.float32)
    assert Uniform().sample(3, generator()).dtype == torch.float32
