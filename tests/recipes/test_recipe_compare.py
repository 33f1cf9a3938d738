"""steer compare: sizes that spend the budget and no more, cells that depend on nothing but their
key, and what is shown.
"""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import recipes.compare
import steer.samplers
from recipes.cli import main
from recipes.comparison.benchmark import Benchmark
from recipes.comparison.budget import CANDIDATES, Price, Sizer, integer_settings, with_setting
from recipes.comparison.cells import over_seeds
from recipes.setup.config import CONFIGS
from rewards import Quadratic
from steer import counting
from steer import plots as pictures
from steer.analytic import ring
from steer.counting import Evaluations
from steer.samplers import BestOfN, Jump, Result, Sampler
from steer.tilt import Tilt

RING = ["compare", "ring/compare", "particles=16", "model.steps=4", "budgets=[6,13]", "seeds=2"]
TWO = [
    f"methods.{name}=null"
    for name in (
        "FMTT_map",
        "FMTT_no_look-ahead",
        "FMTT_denoiser",
        "FMRG_jacobian",
        "FMRG_endpoint",
    )
]  # what is left: FK, best of N
SAMPLERS = {
    name: cls
    for name in steer.samplers.__all__
    if inspect.isclass(cls := getattr(steer.samplers, name))
}
SHIPPED = {
    name: cls
    for name, cls in SAMPLERS.items()
    if issubclass(cls, Sampler) and not inspect.isabstract(cls)
}


def node_of(name, **more):
    """A sampler's node; one around another gets a stochastic one of few steps."""
    if "base_sampler" in inspect.signature(SHIPPED[name]).parameters:
        more = {"base_sampler": {"_target_": "steer.samplers.Sde", "steps": 3}, **more}
    return {"_target_": f"steer.samplers.{name}", **more}


def benchmark_of(prompts=1, particles=6, max_batch=64, scale=1.0):
    blank = torch.empty(0, 2, dtype=torch.float64)
    tilt = Tilt(Quadratic([3.0, 2.0], 0.5), scale)
    return Benchmark(ring(steps=4), tilt, None, prompts, particles, blank, max_batch)


def sizer(node, size=None, candidates=None, price=None, benchmark=None):
    return Sizer(node, size, candidates, benchmark or benchmark_of(), price or Price())


class Squares(Sampler):
    """Costs steps^2 jumps, says that it costs nothing, takes even numbers of steps alone, from 4 to
    `most`.
    """

    claim = "biased"

    def __init__(self, steps: int = 4, most: float = 1e9):
        if steps % 2 or not 4 <= steps <= most:
            raise ValueError("an even number of steps, at least 4, and not too many")
        self.steps = steps

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        x = x0.flatten(0, 1)
        for _ in range(self.steps**2):
            counting.network(x)
        return Result(x0, x0[..., 0], None)


class Best3(BestOfN):
    """The three best of N."""

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        drawn = self.base_sampler(flow_map, x0, tilt, cond, generator)
        top = drawn.tilt.topk(3, dim=1).indices
        x = torch.stack([row[index] for row, index in zip(drawn.x, top, strict=True)])
        return Result(x, drawn.log_w.gather(1, top), None)


# --- sizes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [7, 31.5])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_sampler_spends_its_budget_and_one_size_more_would_not(name, budget):
    method = sizer(node_of(name))
    fit = method.plan([budget]).fits[str(budget)]

    def spent(size):
        drawn = size if method.setting == CANDIDATES else method.benchmark.particles
        groups = math.ceil(method.benchmark.particles / fit.returned)
        sampler = method.sampler(method.setting, size)
        keep = method.benchmark.particles
        return method.price(
            method.benchmark.draw(sampler, drawn, groups, "real", keep=keep).evaluations
        )

    assert spent(fit.size) == fit.cost <= budget < spent(fit.size + 1)
    assert method.setting == (CANDIDATES if name.startswith("BestOf") else "steps")


def test_sizes_by_hand():
    denoiser = {"lookahead": {"_target_": "steer.lookahead.Denoiser"}}
    assert (
        sizer(node_of("FkSteering")).plan([100]).fits["100"].size == 100
    )  # looks share their velocity with the drift
    fmtt = node_of("TrajectoryTilting", **denoiser)
    assert sizer(fmtt).plan([30]).fits["30"].size == 10  # looks of a forward and a backward, each 3
    assert sizer(fmtt, price=Price(0.0)).plan([30]).fits["30"].size == 30
    assert (
        sizer(fmtt, price=Price(0.0, 1.0, 2.0)).plan([30]).fits["30"].size == 7
    )  # looks of 1 + 1 + 2, and the reward once more at the end
    jumps = {"base_sampler": {"_target_": "steer.samplers.Jump", "steps": 4}}
    assert sizer(node_of("BestOfN", **jumps)).plan([3, 30]).fits["30"][:3] == (7, 7, 1)
    assert "3" not in sizer(node_of("BestOfN", **jumps)).plan([3, 30]).fits


def test_any_whole_number_can_be_the_size():
    posterior = {"lookahead": {"_target_": "steer.lookahead.ShortOde", "steps": 2}}
    node = node_of("TrajectoryTilting", steps=3, **posterior)
    names = integer_settings(node)
    assert {"steps", "film", "lookahead.steps"} <= set(names)
    assert not {"resample_below", "max_batch"} & set(names)
    assert with_setting(node, "lookahead.steps", 9)["lookahead"]["steps"] == 9
    assert node["lookahead"]["steps"] == 2
    method = sizer(node, size="lookahead.steps")
    small, large = (method.plan([budget]).fits[str(budget)] for budget in (40, 80))
    assert method.setting == "lookahead.steps"
    assert small.size < large.size
    assert small.cost <= 40 < method.trial(small.size + 1).cost
    base = sizer(node_of("BestOfN"), size="base_sampler.steps", candidates=5)
    assert base.plan([31]).fits["31"][:3] == (6, 5, 1)  # five candidates of six steps
    assert (
        "candidates=N"
        in sizer(node_of("BestOfN"), size="base_sampler.steps").plan([31]).errors["31"]
    )
    assert "does not grow with film" in sizer(node, size="film").plan([400]).errors["400"]


def test_costs_that_are_not_affine_and_sizes_that_are_refused():
    fits = sizer({"_target_": f"{__file__}:Squares"}).plan([10, 17, 143, 144, 1000]).fits
    assert {budget: fit[:2] for budget, fit in fits.items()} == {
        "17": (4, 6),
        "143": (10, 6),
        "144": (12, 6),
        "1000": (30, 6),
    }
    assert fits["143"].cost == 100  # counted, whatever the sampler says
    few = sizer({"_target_": f"{__file__}:Squares", "most": 12}).plan([10, 1000])
    assert few.fits["1000"].size == 12
    assert few.errors["10"] == "the smallest, 4 steps, costs 16 evaluations"


def test_prices_are_per_pass():
    assert Price(2.0, 0.5, 0.25)(Evaluations(10, 3, 4, 8)) == 10 + 6 + 2 + 2


# --- drawing ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("drawn", "groups"), [(7, 6), (3, 2)])
def test_draws_depend_on_the_key_and_not_on_the_batches(drawn, groups):
    sampler = BestOfN(steer.samplers.Sde(3))
    results = [
        benchmark_of(2, max_batch=n).draw(sampler, drawn, groups, "key", 1) for n in (1, 10, 1000)
    ]
    assert results[0].x.shape == (2, groups, 2)
    for result in results[1:]:
        torch.testing.assert_close(result.x, results[0].x, rtol=0, atol=1e-12)
    other = benchmark_of(2).draw(sampler, drawn, groups, "key", 2)
    assert not torch.equal(other.x, results[0].x)
    assert results[0].evaluations.network_forward == 3 * drawn


class Sorted(Sampler):
    """Exact draws of the ring in the order of the reward, weighted by it."""

    claim = "exact"

    def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
        x = flow_map.sample(x0.shape[0] * x0.shape[1], generator)
        log_w = tilt(x, None, 1.0).unflatten(0, x0.shape[:2])
        order = log_w.argsort(dim=1, descending=True)
        x = x.unflatten(0, x0.shape[:2]).gather(1, order[..., None].expand(-1, -1, 2))
        counting.network(x.flatten(0, 1))
        return Result(x, log_w.gather(1, order), None)


def test_of_a_population_in_order_what_is_kept_follows_the_law():
    """3 of 512: their mean is that of the tilted law, where the first three are far from it; 512
    are paid for by 3.
    """
    benchmark = benchmark_of(800, particles=3)
    kept = benchmark.draw(Sorted(), 512, 1, "key", keep=3)
    assert kept.x.shape == (800, 3, 2)
    assert torch.equal(kept.log_w, torch.zeros(800, 3, dtype=torch.float64))
    assert kept.evaluations.network_forward == pytest.approx(512 / 3)
    law, _ = ring(steps=4).tilted(Quadratic([3.0, 2.0], 0.5))
    truth = law.weights @ law.means
    means = kept.x.mean(1)
    assert ((means.mean(0) - truth).abs() < 4 * means.std(0) / 800**0.5 + 0.01).all()
    first = benchmark.draw(Sorted(), 512, 1, "key").x[:, :3].mean(1)
    assert ((first.mean(0) - truth).abs() > 20 * first.std(0) / 800**0.5).any()


def test_a_budget_buys_what_is_kept():
    """Of 8 particles 3 are wanted: a step of all costs 8/3 a sample. Groups of 2 for 3 samples: 4
    are paid for.
    """
    of_8 = sizer(node_of("Sde"), candidates=8, benchmark=benchmark_of(particles=3))
    fit = of_8.plan([100]).fits["100"]
    assert (fit.size, fit.drawn, fit.returned) == (37, 8, 8)
    assert fit.cost == pytest.approx(37 * 8 / 3)
    of_2 = sizer(node_of("Sde"), candidates=2, benchmark=benchmark_of(particles=3))
    assert of_2.plan([100]).fits["100"][:3] == (75, 2, 2)
    assert (
        sizer(node_of("Sde"), candidates=8, benchmark=benchmark_of(particles=8))
        .plan([100])
        .fits["100"]
        .size
        == 100
    )


def test_groups_are_of_their_own_prompt_and_weigh_alike():
    scale = torch.tensor([0.0, 50.0], dtype=torch.float64)
    result = benchmark_of(2, scale=scale).draw(Best3(Jump(1)), 30, 40, "key")
    assert result.x.shape == (2, 120, 2)
    reach = (result.x - torch.tensor([3.0, 2.0])).norm(dim=2).mean(1)
    assert reach[0] > 2 * reach[1]  # of the second prompt alone the best are kept
    torch.testing.assert_close(
        result.log_w.exp().unflatten(1, (40, 3)).sum(2), torch.ones(2, 40, dtype=torch.float64)
    )


def test_errors_are_over_seeds_with_prompts_as_given():
    cells = [{"a_mean": [1.0, 10.0]}, {"a_mean": [3.0, 14.0]}]
    figures = over_seeds(cells)
    assert figures["a_mean"] == 7.0
    assert figures["a_std_error"] == pytest.approx(
        math.sqrt(2 / 2 + 8 / 2) / 2
    )  # variances 2 and 8, two seeds, two prompts
    assert math.isnan(over_seeds(cells[:1])["a_std_error"])


# --- the command --------------------------------------------------------------------------------
def figures_of(folder, *drop):
    """The rows of metrics.json by method and budget, without their seconds."""
    rows = json.loads((Path(folder) / "metrics.json").read_text())["rows"]
    return {
        (row["method"], row["budget"]): {
            k: v for k, v in row.items() if k not in ("seconds", *drop)
        }
        for row in rows
    }


def test_the_ring(steer):
    folder = Path(steer(*RING, "seeds=4", "particles=200", "budgets=[3,40]"))
    files = {
        "config.yaml",
        "metrics.json",
        "compare.md",
        "report.html",
        "curves.png",
        "plans.json",
        "cells",
    }
    assert {path.name for path in folder.iterdir()} == files
    rows = figures_of(folder)
    assert len(rows) == 7 * 2
    for name in ("FMTT_map", "FMTT_denoiser", "FMTT_no_look-ahead", "FK_steering"):
        row = rows[name, 40]
        assert 36 < row["spent"] <= 40
        assert (
            abs(row["log_z_error"]) < 4 * row["log_z_error_std_error"] + 0.2
        )  # ten steps are few for the weights of FMTT
        assert row["law_distance"] < 0.4
    best = rows["best_of_N_by_1_jump", 40]
    assert best["size"] == best["spent"] == 40
    assert best["log_z_error"] is None
    assert (
        best["reward_mean"] > rows["FMTT_map", 40]["reward_mean"]
    )  # and so says nothing of the law
    assert best["law_distance"] > 0.4
    assert rows["FMTT_map", 3] == {
        "method": "FMTT_map",
        "budget": 3,
        "error": "the smallest, 1 steps, costs 4 evaluations",
    }
    page = (folder / "compare.md").read_text()
    assert "| FMTT map | 3 | the smallest, 1 steps, costs 4 evaluations |" in page
    assert "| best of N by 1 jump (maximiser) | 3 candidates: 3 | 40 candidates: 40 |" in page
    assert (
        "a forward pass of the network counts as 1, its backward as 2, rewards as nothing" in page
    )
    assert "± one standard error over 4 seeds" in (folder / "report.html").read_text()


def test_stopped_and_resumed(steer, monkeypatch):
    whole = steer(*RING, *TWO, "run.dir=whole")
    real = recipes.compare.cell
    calls = []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("recipes.compare.cell", stops)
    assert main([*RING, *TWO, "run.dir=parts"]) == 130
    assert "resume from its last cell: steer compare" in steer.capsys.readouterr().err
    before = cells_of("parts")
    assert len(before) == 3
    monkeypatch.setattr("recipes.compare.cell", real)
    monkeypatch.setattr("recipes.comparison.budget.Sizer.plan", None)  # sizes are kept too
    assert steer(*RING, *TWO, "run.dir=parts", "run.resume=true") == "parts"
    assert {name: Path("parts/cells", name).read_text() for name in before} == before
    assert figures_of("parts") == figures_of(whole)
    assert "other settings, of reward" in steer.fails(
        *RING, *TWO, "run.dir=parts", "run.resume=true", "reward.precision=2"
    )


def cells_of(folder):
    return {path.name: path.read_text() for path in Path(folder, "cells").glob("*.json")}


@pytest.mark.slow
def test_a_run_grows(steer):
    """By a method, a budget and a seed: what was measured stays, and the rest is as if it had been
    there from the start.
    """
    more = ["budgets=[6,9,13]", "seeds=3"]
    whole = steer(*RING, *TWO[1:], *more, "run.dir=whole")
    steer(*RING, *TWO, "run.dir=parts")
    before = cells_of("parts")
    resumed = ["run.dir=parts", "run.resume=true"]
    steer(*RING, *TWO[1:], *resumed)
    steer(*RING, *TWO[1:], *more, *resumed)
    assert {name: cells_of("parts")[name] for name in before} == before
    assert figures_of("parts") == figures_of(whole)


@pytest.mark.slow
def test_a_method_that_changed_is_measured_anew(steer):
    """Also where it was left out in between; and one that is as it was, is not."""
    resumed = ["run.dir=parts", "run.resume=true", "seeds=1"]
    changed = "methods.FK_steering.sampler.every=2"
    whole = steer(*RING, *TWO, "seeds=1", changed)
    first = figures_of(steer(*RING, *TWO, "seeds=1", "run.dir=parts"))
    steer(*RING, *TWO, *resumed, "methods.FK_steering=null")
    assert figures_of(steer(*RING, *TWO, *resumed, changed)) == figures_of(whole)
    assert figures_of(whole) != first
    before = cells_of("parts")
    assert figures_of(steer(*RING, *TWO, *resumed)) == first
    assert cells_of("parts") == before


def test_a_method_that_may_spend_more_keeps_what_it_has(steer):
    words = [*RING, *TWO, "seeds=1", "run.dir=parts"]
    first = figures_of(steer(*words, "methods.FK_steering.most=6"))
    assert first["FK_steering", 13]["error"] == "not run above most=6"
    before = cells_of("parts")
    lifted = figures_of(steer(*words, "run.resume=true"))
    assert "error" not in lifted["FK_steering", 13]
    assert {name: cells_of("parts")[name] for name in before} == before
    assert len(cells_of("parts")) == len(before) + 1


def test_a_method_whose_file_changed_is_measured_anew(steer):
    words = [*RING, *TWO, "methods.mine.sampler._target_=mine.py:Mine", "seeds=1", "run.dir=parts"]
    code = (
        "from steer.samplers import Ode\nfrom steer.samplers.base import importance_weighted\n"
        "class Mine(Ode):\n"
        "    def finish(self, run, x): return importance_weighted(run, x{})\n"
    )
    Path("mine.py").write_text(code.format(""))
    first = figures_of(steer(*words))
    Path("mine.py").write_text(code.format(" / 2"))
    second = figures_of(steer(*words, "run.resume=true"))
    assert second["mine", 13]["reward_mean"] != first["mine", 13]["reward_mean"]
    assert second["FK_steering", 13] == first["FK_steering", 13]


@pytest.mark.slow
def test_budgets_are_numbers_and_seeds_may_be_fewer(steer, fashion):
    """Of images too, whose pictures are of the first seed."""
    images = [
        "compare",
        "fashion/compare",
        *fashion,
        "particles=2",
        "budgets=[3]",
        "run.dir=images",
    ]
    methods = OmegaConf.load(CONFIGS / "fashion/compare.yaml").methods
    images += [f"methods.{name}=null" for name in methods if name != "best_of_N_by_1_jump"]
    steer(*images)
    steer(*images, "run.resume=true", "seeds=[1]")
    steer(*RING, *TWO, "run.dir=parts")
    before = cells_of("parts")
    steer(*RING, *TWO, "run.dir=parts", "run.resume=true", "budgets=[6.0,13.0]", "seeds=[1]")
    assert cells_of("parts") == before


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(steer):
    steer(*RING, *TWO, "run.dir=parts", "seeds=1")
    before = Path("parts/config.yaml").read_text()
    assert "budgets has 0.1" in steer.fails(
        *RING, *TWO, "run.dir=parts", "run.resume=true", "budgets=[0.1]"
    )
    assert Path("parts/config.yaml").read_text() == before


@pytest.mark.slow
def test_a_cell_depends_on_its_key_alone(steer):
    node = "sampler: {_target_: steer.samplers.FkSteering, every: 5}"
    Path("two.yaml").write_text(
        "model: {_target_: steer.analytic.ring}\nreward: {_target_: rewards.Quadratic, center:"
        " [3.0, 2.0], precision: 0.5}\n"
        f"methods: {{best_of_N_by_1_jump: {{sampler: {{_target_: steer.samplers.BestOfN, "
        f"base_sampler: {{_target_: steer.samplers.Jump}}}}}}, FK_steering: {{{node}}}}}\n"
    )
    both = figures_of(steer(*RING, *TWO))
    other = figures_of(steer("compare", "two.yaml", *RING[2:], "budgets=[9,13]"))
    assert list(other) != list(both)
    for key in (("FK_steering", 13), ("best_of_N_by_1_jump", 13)):
        assert other[key] == both[key]
    assert figures_of(steer(*RING, *TWO, "seeds=[7]"))["FK_steering", 13] != both["FK_steering", 13]


def test_a_method_that_cannot_is_a_row(steer):
    Path("mine.py").write_text(
        "from rewards import Reward\n"
        "class Black(Reward):\n    differentiable = False\n    def forward(self, x, cond=None):\n "
        "       return x[:, 1]\n"
    )
    rows = figures_of(folder := steer(*RING, "reward=mine.py:Black"))
    assert "Black has no gradient" in rows["FMTT_map", 13]["error"]
    assert all(rows[name, 13]["reward_mean"] > 3 for name in ("best_of_N_by_1_jump", "FK_steering"))
    assert "Black has no gradient" in (Path(folder) / "report.html").read_text()
    Path("late.py").write_text(
        "import torch\ndef late(x):\n    return torch.where(torch.arange(len(x)) == 11, torch.nan,"
        " x[:, 1])\n"
    )
    rows = figures_of(steer(*RING, *TWO, "reward=late.py:late", "particles=8", "max_batch=6"))
    assert "late is nan for sample 11" in rows["best_of_N_by_1_jump", 13]["error"]
    assert {key for key, row in rows.items() if "error" in row} == {("best_of_N_by_1_jump", 13)}
    Path("few.py").write_text(
        "def few(x):\n    return x[:, 1] / (len(x) < 8)\n"
    )  # bad with all samples, not in a trial
    rows = figures_of(
        steer(*RING, *TWO, "reward=few.py:few", "particles=8", "max_batch=6", "budgets=[6]")
    )
    assert "few is" in rows["FK_steering", 6]["error"]


def test_best_of_n_is_always_among_them(steer):
    folder = steer(*RING, *TWO, "methods.best_of_N_by_1_jump=null", "seeds=1")
    assert {name for name, _ in figures_of(folder)} == {
        "FK_steering",
        "best_of_N_by_1_jump",
        "best_of_N_by_4_jumps",
    }
    methods = OmegaConf.load(f"{folder}/config.yaml").methods
    assert methods.best_of_N_by_4_jumps.sampler.base_sampler.steps == 4
    assert "of one seed, hence without errors" in (Path(folder) / "compare.md").read_text()


def test_images(steer, fashion):
    names = (
        "posterior-guided_by_1",
        "posterior-guided_by_4",
        "denoiser-guided",
        "FMTT_of_8",
        "noise_optimisation",
        "FMRG_jacobian",
        "FMRG_endpoint",
        "best_of_N_by_4_jumps",
    )
    some = [f"methods.{name}=null" for name in names]
    folder = Path(
        steer(
            "compare", "fashion/compare", *fashion, *some, "particles=3", "seeds=1", "budgets=[6]"
        )
    )
    assert (folder / "grid.png").exists()
    row = figures_of(folder)["FK_steering_of_8", 6]
    assert 0 <= row["judge_accuracy"] <= 1
    assert row["heldout_reward_mean"] < 0
    assert "law_distance" not in row


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            [
                f"methods.{name}=null"
                for name in (
                    "FMTT_map",
                    "FMTT_denoiser",
                    "FMTT_no_look-ahead",
                    "FK_steering",
                    "FMRG_jacobian",
                    "FMRG_endpoint",
                    "best_of_N_by_1_jump",
                )
            ],
            "methods is empty; name at least one",
        ),
        (
            ["budgets=[0.5]"],
            "budgets has 0.5, but the cheapest method, FMTT_no_look-ahead, needs 1 evaluations",
        ),
        (["budgets=[]"], "budgets is a list"),
        (["budgets=[some]"], "budgets[0] is a number"),
        (["seeds=0"], "seeds is a whole number, at least 1"),
        (["seeds=[a]"], "seeds[0] is a whole number"),
        (
            ["methods.FK_steering.size=step"],
            "methods.FK_steering: size is one of candidates, steps, every; got 'step'",
        ),
        (["methods.FK_steering.candidates=0"], "candidates is a whole number, at least 1"),
        (
            ["methods.FK_steering.budget=3"],
            "methods.FK_steering has a sampler, and may have size, candidates and most",
        ),
        (
            ["methods.FK_stearing=null"],
            "methods.FK_stearing=null takes out nothing; did you mean 'FK_steering'",
        ),
        (
            ["methods.FK_steering.most=true"],
            "methods.FK_steering.most is a number, above 0 or null; got True",
        ),
        (["methods.FK_steering.most=.nan"], "methods.FK_steering.most is a number"),
        (
            ["methods.FK_steering.most=0"],
            "methods.FK_steering.most is a number, above 0 or null; got 0",
        ),
        (["methods.mine=3"], "methods.mine is a section"),
        (
            ["methods.FK_steering.sampler.stepz=3"],
            "takes no argument 'stepz'; did you mean 'steps'",
        ),
        (
            ["methods.FK_steering.sampler._target_=steer.samplers.Tempering"],
            "methods.FK_steering.sampler is a Sampler",
        ),
        (["price.backwards=1"], "did you mean 'price.backward'"),
        (["max_batch=0"], "max_batch is a whole number, at least 1"),
        (["run.resume=true"], "there is no run runs/ring-compare to resume"),
    ],
)
def test_one_line(steer, words, says):
    assert says in steer.fails(*RING, *words)
    assert not Path("runs").exists()


def test_a_picture_of_many_methods(tmp_path):
    points = {
        f"method {i}": [pictures.Point(30, i, 0.1), pictures.Point(100, i + 1, math.nan)]
        for i in range(11)
    }
    pictures.cost_curves(
        tmp_path / "a.png",
        {"reward": points, "distance": points},
        "cost",
        [30, 100],
        {"reward": 3.0},
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="at least one point"):
        pictures.cost_curves(tmp_path / "b.png", {"reward": {"a": []}}, "cost", [30])
