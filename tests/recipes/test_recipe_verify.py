"""steer verify: right methods pass, wrong ones that claim to be exact fail, and the others get
figures but no verdict.
"""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from recipes.cli import main
from recipes.experiments import verify as figure
from recipes.verification.hypothesis_test import (
    assess,
    at_step_zero,
    is_decided,
    order,
    unless_unsettled,
    z_score,
)
from recipes.verification.measurement import (
    Measurement,
    SampleSize,
    Statistics,
    errors,
    measure,
    measure_until,
    std_error,
)
from steer.analytic.benchmarks import WORLDS
from steer.counting import Evaluations
from steer.resampling import log_mean_exp
from steer.samplers import Jump, Result, Sampler
from steer.tilt import Tilt

WORDS = [
    "verify",
    "worlds/verify",
    "worlds=[overlapping]",
    "prompts=16",
    "particles=256",
    "rounds=1",
]
JUMP = ["sampler._target_=steer.samplers.Jump", "steps=[1,2]"]
ENOUGH = ["prompts=64", "particles=1024", "rounds=4"]
SAMPLERS = """
from dataclasses import replace
import torch
from steer import counting
from steer.resampling import log_mean_exp
from steer.samplers import Jump
from steer.samplers import Ode
from steer.samplers import Result
from steer.samplers import Sampler
from steer.samplers import Sde

class Exact(Sampler):                     # draws of the mixture, the same at every number of steps
    claim = "exact"

    def __init__(self, steps=1):
        self.steps = steps

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        seed = int(x0.abs().sum() * 1000)
        with counting.count() as tally:
            x = flow_map.sample(x0.shape[0] * x0.shape[1], torch.Generator().manual_seed(seed))
            for _ in range(self.steps):
                counting.network(x)
            log_w = tilt(x, None, 1.0).unflatten(0, x0.shape[:2])
        spent = tally.per(len(x))
        x = x.unflatten(0, x0.shape[:2])
        return Result(x, log_w, log_mean_exp(log_w), log_w, evaluations=spent)

class Unweighted(Jump):
    def finish(self, run, x):
        result = super().finish(run, x)
        return replace(result, log_w=torch.zeros_like(result.log_w))

class Backwards(Jump):                    # a drift of the wrong sign, at every step size
    def step(self, run, x, s, t):
        return 2 * x - super().step(run, x, s, t)

class WrongZ(Jump):
    def finish(self, run, x):
        result = super().finish(run, x)
        return replace(result, log_z=result.log_z - 0.2)

class NoZ(Exact):
    def __call__(self, *arguments, **named):
        return replace(super().__call__(*arguments, **named), log_z=None)

class Biased(Unweighted):
    claim = "biased"

class Boasting(Jump):
    claim = "best"

class Refusing(Jump):
    def start(self, run, x):
        raise ValueError("no gradient here")

class Nan(Jump):
    def finish(self, run, x):
        result = super().finish(run, x)
        return replace(result, x=result.x * torch.nan)
"""


@pytest.fixture
def mine(steer):
    """The command, beside a file of samplers."""
    Path("mine.py").write_text(SAMPLERS)
    return steer


def of_mine(name):
    return [*WORDS, *JUMP, f"sampler._target_=mine.py:{name}"]


def refuted(capsys, *words):
    """Runs the command, expects exit code 1, and returns metrics.json and the last line said."""
    assert main([*words, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    return json.loads((Path(out.strip()) / "metrics.json").read_text()), err


# --- the command --------------------------------------------------------------------------------
def test_a_right_method_passes_and_leaves_a_folder(mine):
    folder = Path(mine(*of_mine("Exact"), "worlds=[overlapping,lobes]", *ENOUGH))
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "metrics.json",
        "verify.md",
        "log_z.png",
        "report.html",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["method"], metrics["claim"], metrics["verdict"]) == ("Exact", "exact", "pass")
    assert list(metrics["worlds"]) == ["overlapping", "lobes"]
    found = metrics["worlds"]["overlapping"]
    assert found["log_z"] == pytest.approx(0.3047, abs=1e-4)
    assert [one["steps"] for one in found["sizes"]] == [1, 2]
    assert [one["evaluations"]["network_forward"] for one in found["sizes"]] == [1, 2]
    assert all(one["evaluations"]["reward_forward"] == 1 for one in found["sizes"])
    assert all(0.5 < one["distance_over_floor"] < 2 for one in found["sizes"])
    assert abs(found["log_z_error"]) < 4 * found["log_z_std_error"] < 0.2
    page = (folder / "verify.md").read_text()
    assert "| overlapping | 2" in page
    assert "The claim holds in" in page
    assert "log Z" in (folder / "report.html").read_text()


def test_the_same_command_gives_the_same_figures(mine):
    first, again, other = (
        mine.metrics(*of_mine("Biased"), *more)["worlds"] for more in ((), (), ("seed=1",))
    )
    assert first == again != other


@pytest.mark.parametrize("name", ["Unweighted", "Backwards", "WrongZ"])
def test_a_wrong_method_that_claims_to_be_exact_fails(mine, capsys, name):
    metrics, says = refuted(capsys, *of_mine(name))
    assert metrics["verdict"] == metrics["worlds"]["overlapping"]["verdict"] == "fail"
    assert says == f"steer: {name} claims to be exact. The claim fails in: overlapping.\n"
    found = metrics["worlds"]["overlapping"]
    by = {"Unweighted": "mode_weights", "Backwards": "log_z", "WrongZ": "log_z"}[name]
    assert found[f"{by}_in_std_errors"] > 3


def test_too_few_samples_show_nothing(mine, capsys):
    metrics, says = refuted(capsys, *WORDS, *JUMP, "prompts=4", "particles=8", "rounds=2")
    assert metrics["verdict"] == "inconclusive"
    assert "give more rounds, prompts or particles" in says
    found = metrics["worlds"]["overlapping"]
    assert found["repetitions"] == 8
    assert found["smallest_error_told"]["log_z"] > 0.02


def test_repetitions_are_added_until_what_must_be_told_is(mine):
    found = mine.metrics(*of_mine("Exact"), "particles=1024", "prompts=8", "rounds=20")["worlds"][
        "overlapping"
    ]
    assert found["repetitions"] > 8
    assert found["repetitions"] % 8 == 0
    told = found["smallest_error_told"]
    assert told["log_z"] <= 0.02
    assert max(told["mean"], told["mode_weights"]) <= 0.05
    assert told["log_z"] == pytest.approx(3 * found["log_z_std_error"], rel=0.15)
    page = (Path("runs/worlds-verify") / "verify.md").read_text()
    assert f"{told['log_z']:.3f}" in page


def test_an_exact_method_without_log_z_is_held_to_its_samples(mine):
    metrics = mine.metrics(*of_mine("NoZ"), *ENOUGH)
    assert metrics["verdict"] == "pass"
    assert metrics["worlds"]["overlapping"]["log_z_error"] is None


def test_a_method_that_claims_no_law_gets_no_verdict(mine):
    best = [
        "sampler._target_=steer.samplers.BestOfN",
        "sampler.base_sampler._target_=steer.samplers.Jump",
    ]
    for claim, words in (("biased", of_mine("Biased")), ("maximiser", [*WORDS, *best])):
        folder = Path(mine(*words))
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["claim"], metrics["verdict"]) == (claim, "none")
        assert metrics["worlds"]["overlapping"]["sizes"][-1]["distance_over_floor"] > 2
        assert "| pass" not in (folder / "verify.md").read_text()
    assert metrics["worlds"]["overlapping"]["sizes"][0]["steps"] is None  # best of N has none


def test_the_table_is_shown_unless_quiet(mine, capsys):
    assert main([*of_mine("Exact"), *ENOUGH]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/worlds-verify\n"
    assert "| world       | d |" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["worlds=[rings]"],
            "no world is called 'rings'; did you mean 'ring'?; there are: ring, overlapping",
        ),
        (["worlds=[]"], "worlds is a string or a list"),
        (["steps=[0]"], "steps[0] is a whole number, at least 1"),
        (["steps=[5,5]"], "steps is a list of different whole numbers"),
        (["prompts=1"], "prompts is a whole number, at least 2"),
        (["rounds=0"], "rounds is a whole number, at least 1; got 0"),
        (["sampler.steps=50"], "instead of sampler.steps say steps=[50]"),
        (["sampler=Jump"], "sampler=Jump has no package; did you mean steer.samplers.Jump?"),
        (["sampler._target_=mine.py:Mime"], "mine.py has no 'Mime'"),
        (
            ["sampler._target_=mine.py:Boasting"],
            "claim is one of exact, exact for the chain, biased, maximiser; Boasting has 'best'",
        ),
        (["sampler._target_=mine.py:Refusing"], "in the world 'overlapping': no gradient here"),
        (
            ["sampler._target_=mine.py:Nan"],
            "in the world 'overlapping': the sampler returned x with entries",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(mine, words, says):
    assert says in mine.fails(*WORDS, *JUMP, *words)
    assert not Path("runs").exists()


# --- the statistics -----------------------------------------------------------------------------
def test_few_particles_many_repetitions_are_unbiased_together():
    """With 4 particles the mean of log Z is far too low and the weighted means are pulled back; put
    together, neither.
    """
    world = WORLDS["ring"]()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(6000, 4, 2, generator=generator, dtype=torch.float64)
    result = Jump(1)(world.flow_map, x0, Tilt(world.reward))
    assert result.log_z.mean() - world.log_z < -0.3
    error, influence = errors(result, world)
    noise = std_error(influence)
    judged = world.weights > 0.01
    assert float(error.log_z.abs() / noise.log_z) < 4
    assert (error.mean.abs() / noise.mean < 4).all()
    assert (error.weights.abs() / noise.weights < 4)[judged].all()
    assert float(noise.log_z) < 0.03


def made(errors_of_log_z, noise=0.0, repetitions=16):
    """Runs of these sizes and errors, whose repetitions add +-noise sqrt(repetitions)."""
    zeros = torch.zeros(1, dtype=torch.float64)
    swing = (
        noise * repetitions**0.5 * (-1.0) ** torch.arange(repetitions, dtype=torch.float64)[:, None]
    )
    influence = Statistics(swing, 0 * swing, 0 * swing)
    return [
        Measurement(n, Statistics(zeros + e, zeros, zeros), influence, 1.0, 1.0, Evaluations())
        for n, e in errors_of_log_z.items()
    ]


def test_extrapolation_leaves_nothing_of_h_and_h2_and_the_order_is_found():
    runs = made({n: 0.01 + 3 / n - 20 / n**2 for n in (25, 50, 100)})
    assert float(at_step_zero(runs)[0].log_z) == pytest.approx(0.01)
    assert float(at_step_zero(made({10: 0.3, 20: 0.2}))[0].log_z) == pytest.approx(0.1)
    assert float(at_step_zero(made({10: 0.3}))[0].log_z) == pytest.approx(0.3)
    for p in (1.0, 2.0):
        found = order(made({n: -(n**-p) for n in (25, 50, 100)}, noise=1e-6))
        assert found[0] == pytest.approx(p)
    assert order(made(dict.fromkeys((25, 50, 100), 0.001), noise=0.01)) is None


def test_noise_common_to_all_sizes_is_not_multiplied_by_the_extrapolation():
    _, influence = at_step_zero(made({25: 0.1, 50: 0.1, 100: 0.1}, noise=0.01))
    assert float(std_error(influence).log_z) == pytest.approx(0.01, rel=0.05)


def test_surprise_goes_beyond_a_limit_as_often_as_a_gaussian():
    x = torch.randn(4000, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.tensor(
        [z_score(e, s, 8) for e, s in zip(x.mean(1), x.std(1) / 8**0.5, strict=True)]
    )
    beyond = float((found > 2).double().mean())
    assert abs(beyond - 0.0455) < 4 * (0.0455 / 4000) ** 0.5
    assert z_score(torch.tensor([2.5]), torch.tensor([1.0]), 10**6) == pytest.approx(2.5, rel=1e-3)


def test_a_method_that_is_not_exact_never_passes():
    world = WORLDS["overlapping"]()
    runs = [measure(Jump(1), 1, world, "overlapping", SampleSize(32, 4096, 0))]
    assert [assess(runs, world, claim).result for claim in ("exact", "biased", "maximiser")] == [
        "pass",
        "none",
        "none",
    ]


# --- weights that are 5 % wrong -----------------------------------------------------------------
class Draws(Sampler):
    """Exact draws of the mixture, weighted by the tilt: exact. Subclasses spoil the weights by a
    factor of 1.05.
    """

    claim = "exact"

    def __init__(self, world):
        self.world = world

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        x = flow_map.sample(x0.shape[0] * x0.shape[1], generator)
        log_w = tilt(x, None, 1.0).unflatten(0, x0.shape[:2])
        x = x.unflatten(0, x0.shape[:2])
        return Result(x, self.spoilt(x, log_w), log_mean_exp(log_w) + self.shift(x, log_w))

    def spoilt(self, x, log_w):
        return log_w

    def shift(self, x, log_w):
        return log_mean_exp(self.spoilt(x, log_w)) - log_mean_exp(log_w)


class TooHigh(Draws):
    """All weights 5 % too high."""

    def spoilt(self, x, log_w):
        return log_w + math.log(1.05)


class TooHighInAMode(Draws):
    """The weights of the mode that is heaviest under the tilted law."""

    def spoilt(self, x, log_w):
        mode = self.world.responsibilities(x.flatten(0, 1))[:, int(self.world.weights.argmax())]
        return log_w + math.log(1.05) * mode.unflatten(0, log_w.shape)


class TooLowBeyondTheMean(Draws):
    """The weights on one side of the mean of the tilted law, in its first coordinate."""

    def spoilt(self, x, log_w):
        return log_w - math.log(1.05) * (x[..., 0] < self.world.mean[0])


def verdict_of(sampler, name, seed):
    world = WORLDS[name]()
    runs = measure_until(
        partial(is_decided, world=world),
        {None: sampler(world)},
        world,
        name,
        SampleSize(32, 1024, seed),
        20,
    )
    return assess(runs, world, "exact").result


@pytest.mark.parametrize("wrong", [TooHigh, TooHighInAMode, TooLowBeyondTheMean])
def test_weights_that_are_five_percent_wrong_fail_in_most_worlds(wrong, monkeypatch):
    monkeypatch.setattr("recipes.verification.measurement.over_floor", lambda *_: math.nan)
    verdicts = [verdict_of(wrong, name, 0) for name in WORLDS]
    assert verdicts.count("fail") >= 6, verdicts


def test_right_weights_pass_in_every_world(monkeypatch):
    monkeypatch.setattr("recipes.verification.measurement.over_floor", lambda *_: math.nan)
    assert {verdict_of(Draws, name, 1) for name in WORLDS} == {"pass"}


def test_the_page_of_all_methods(monkeypatch):
    monkeypatch.setattr(figure, "PARTICLES", 64)
    cells = {
        figure.key_of("Jump", name): figure.measure("Jump", name, 1)
        for name in ("overlapping", "lobes")
    }
    page = figure.page_of(cells)
    assert "2 cells; 2 inconclusive." in page  # so few particles tell nothing
    checks = [
        cell[f"{what}_in_std_errors"]
        for cell in cells.values()
        for what in ("log_z", "mean", "mode_weights")
    ]
    assert f"6 numbers: {sum(z > 2 for z in checks)} beyond 2 (0.3 expected)" in page
    told = cells[figure.key_of("Jump", "lobes")]["smallest_error_told"]["log_z"]
    assert f" {told:.3f} " in page.split("## The smallest detectable error of log Z")[1]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([-0.08, -0.06, -0.059], "unsettled"),  # sure at the most steps, and no nearer there
        ([-0.24, -0.12, -0.06], "pass"),  # of first order
        ([0.02, 0.01, 0.015], "pass"),  # within the noise
    ],
)
def test_an_error_that_does_not_shrink_is_not_passed(errors, expected):
    sizes = [
        {"log_z_error": e, "log_z_std_error": 0.01, "log_z_in_std_errors": abs(e) / 0.01}
        for e in errors
    ]
    assert unless_unsettled("pass", sizes) == expected
    assert unless_unsettled("fail", sizes) == "fail"
    assert unless_unsettled("pass", sizes[-1:]) == "pass"
