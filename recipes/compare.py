"""steer compare: several methods, one model and one reward, at equal evaluations per returned
sample, over several seeds.

Where a method has more particles than samples are asked for, those returned are drawn by the
weights, and bear the cost of all.

A cell is a method at a budget with a seed. All its chance is keyed by the three, and it is kept in
the run folder, so that a run that was stopped goes on where it was, to the same numbers.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from recipes.comparison.benchmark import Arena
from recipes.comparison.budget import Fit, Plan, Price, Sizer
from recipes.comparison.cells import Scales, average_row, cell, read, write
from recipes.evaluation.closed_form import closed_form
from recipes.evaluation.metrics import Figures, Measure
from recipes.reporting import pictures
from recipes.reporting.figures import Gallery, Picture
from recipes.reporting.publish import publish
from recipes.reporting.tables import CONTEST, contest, left_out, markdown, measured, words
from recipes.setup import builders, run_directory
from recipes.setup.dry_run import rehearse
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar, warned_of
from steer.data.stream import key
from steer.progress import shown_by, track
from steer.samplers import BestOfN, Result, Sampler

PANELS = {  # in which way each is better, where the law aimed at is not known
    "reward_mean": "higher",
    "heldout_reward_mean": "higher",
    "judge_accuracy": "higher",
    "diversity": "higher",
    "law_distance": "lower",
    "log_z_error": "0",
}
SIZES = "plans.json"  # where the sizes are kept
FREE = (
    "methods",
    "budgets",
    "seeds",
)  # to change when a run is resumed: what was measured of them is kept by itself
SAID = {"sampler", "size", "candidates", "most"}  # of a method
BEST = {
    "best_of_N_by_1_jump": 1,
    "best_of_N_by_4_jumps": 4,
}  # what is added where no method is best of N


def compare(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    job = replace(job, config=completed(job.config))
    config = job.config
    model, prompts, decode = (
        builders.model_of(config),
        builders.prompts_of(config),
        builders.decode_of(config),
    )
    reward, heldout = (
        builders.reward_of(node, decode, config) for node in (config.reward, config.heldout)
    )
    tilt, flow_map, price = (
        builders.tilt_of(reward, config),
        builders.told(model.flow_map, config),
        Price(**config.price),
    )
    if tilt is None:
        raise ValueError(
            "steer compare needs a reward; give one, as in reward=my_file.py:my_function"
        )
    x0 = builders.noise(config, model.shape, len(prompts), model.dtype)
    arena = Arena(
        flow_map, tilt, prompts.cond, len(prompts), config.particles, x0[0, :0], config.max_batch
    )
    measure = Measure(reward, heldout, builders.judge_of(config), decode, prompts.cond)
    methods, budgets, seeds = methods_of(config, arena, price), budgets_of(config), seeds_of(config)
    rehearse(flow_map, x0, measure)

    exact = closed_form(model.flow_map, tilt) if prompts.cond is None else None
    folder = run_directory.to_resume(config, FREE) if config.run.resume else None
    plans = plans_of(methods, budgets, folder, job.quiet)
    scales = Scales(measure, exact)
    if folder is None:
        folder = run_directory.create(config)
    else:
        run_directory.save(config, folder)
    (folder / "cells").mkdir(exist_ok=True)
    write(
        folder / SIZES,
        {name: {"method": asked(methods[name]), "plan": plan} for name, plan in plans.items()},
    )
    cells: dict[tuple[str, float], list[Figures]] = {
        (name, b): [] for name in methods for b in budgets
    }
    todo = [(seed, name, b) for seed in seeds for name, b in cells if str(b) in plans[name].fits]
    said: set[tuple[str, str]] = set()
    with bar("cells", job.quiet):
        for seed, name, b in track(todo):
            path, chance = path_of(folder, name, methods[name], b, seed), (str(seed), name, str(b))
            with shown_by(iter), warned_of(words(name), f"at {b:g} evaluations, seed {seed}", said):
                cells[name, b].append(
                    cell(path, methods[name], plans[name], b, chance, scales, seed == seeds[0])
                )

    rows = [
        {"method": m, "budget": b, **average_row(methods[m], plans[m], b, done)}
        for (m, b), done in cells.items()
    ]
    for name, reason in {
        row["method"]: row["error"] for row in reversed(rows) if "error" in row
    }.items():
        if not any(row["method"] == name and "error" not in row for row in rows):
            warnings.warn(f"methods.{name} is left out: {reason}", stacklevel=2)
    draws, last = (
        scales.of_draws(config.particles),
        [row for row in rows if row["budget"] == budgets[-1]],
    )
    metrics: Figures = {"method": "compare", "rows": rows, "seeds": seeds, "exact_draws": draws}
    title, claim_line, tables = (
        f"Comparison: {folder.name}",
        rules(price),
        [*contest(metrics), *left_out(metrics)],
    )
    (folder / "compare.md").write_text(
        markdown(title, f"{claim_line} {reading(len(seeds))}", tables)
    )
    gallery = Gallery(folder, model.shape, decode, prompts.titles)
    drawn = [*curves(folder, metrics), *strips(gallery, last, methods, seeds[0])]
    return publish(folder, job, metrics, title, claim_line, drawn, tables)


# --- what is asked ------------------------------------------------------------------------------
def completed(config: DictConfig) -> DictConfig:
    """The config without the methods that were taken out, and with best of N among them."""
    plain: Any = OmegaConf.to_container(config)
    methods = {name: node for name, node in plain["methods"].items() if node is not None}
    if not methods:
        raise ValueError(
            "methods is empty; name at least one, as in methods.mine.sampler._target_=steer.samplers.Sde"
        )
    for name, node in methods.items():
        if not isinstance(node, dict) or "sampler" not in node or node.keys() - SAID:
            raise ValueError(
                f"methods.{name} has a sampler, and may have size, candidates and most; got {node!r}"
            )
    if not any(type(sampler_of(name, node)) is BestOfN for name, node in methods.items()):
        base = {"_target_": "steer.samplers.Jump", "max_batch": config.max_batch}
        for name, k in BEST.items():
            best = {"_target_": "steer.samplers.BestOfN", "base_sampler": {**base, "steps": k}}
            methods.setdefault(name, {"sampler": best})
    done = OmegaConf.create({**plain, "methods": methods})
    OmegaConf.set_readonly(done, True)
    return done


def sampler_of(name: str, node: dict[str, Any]) -> Sampler:
    """The sampler of a method as it stands, whatever its size will be."""
    key = f"methods.{name}.sampler"
    with builders.at(key):
        return builders.sampler_of(node["sampler"], key)


def methods_of(config: DictConfig, arena: Arena, price: Price) -> dict[str, Sizer]:
    """The methods by name."""
    methods: Any = OmegaConf.to_container(config.methods)

    def method(
        name: str,
        sampler: Any,
        size: str | None = None,
        candidates: int | None = None,
        most: float | None = None,
    ) -> Sizer:
        try:
            return Sizer(sampler, size, candidates, arena, price, most)
        except ValueError as error:
            raise ValueError(f"methods.{name}: {error}") from error

    return {str(name): method(name, **node) for name, node in methods.items()}


def budgets_of(config: DictConfig) -> list[float]:
    """The budgets, the smallest first."""
    budgets = list(config.budgets)
    if not budgets or not all(isinstance(b, int | float) and b > 0 for b in budgets):
        raise ValueError(
            f"budgets is a list of evaluations per returned sample, such as [30, 100]; got {budgets}"
        )
    return sorted(set(map(float, budgets)))


def seeds_of(config: DictConfig) -> list[int]:
    """The seeds: so many from config.seed, or those of a list."""
    asked = 3 if config.seeds is None else config.seeds
    seeds = (
        list(range(config.seed, config.seed + asked))
        if isinstance(asked, int)
        else list(dict.fromkeys(asked))
    )
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(f"seeds is how many, at least 1, or a list of whole numbers; got {asked}")
    return seeds


def plans_of(
    methods: dict[str, Sizer], budgets: list[float], folder: Path | None, quiet: bool
) -> dict[str, Plan]:
    """The sizes of each method, as a run that is resumed has kept them, or solved for.

    Raises:
        ValueError: no method can be run, or none within one of the budgets.
    """
    plans = {} if folder is None else kept_plans(folder / SIZES, methods, budgets)
    with bar("sizes", quiet):
        for name in track([name for name in methods if name not in plans]):
            with shown_by(iter):
                plans[name] = methods[name].plan(budgets)
    able = {name: plan.least for name, plan in plans.items() if plan.least is not None}
    if not able:
        raise ValueError(
            f"no method can be run: {next(iter(plans.values())).errors[str(budgets[0])]}"
        )
    cheapest = min(able, key=lambda name: able[name])
    if able[cheapest] > budgets[0]:
        needs = f"the cheapest method, {cheapest}, needs {able[cheapest]:g} evaluations per sample"
        raise ValueError(f"budgets has {budgets[0]:g}, but {needs}; raise it")
    return plans


def asked(method: Sizer) -> dict[str, Any]:
    """What a method's plan depends on."""
    return {**method.said, "most": method.most}


def kept_plans(path: Path, methods: dict[str, Sizer], budgets: list[float]) -> dict[str, Plan]:
    """The plans in a file, of the methods that are still what they were, if they know of all
    budgets.
    """
    found = {}
    for name, kept in (read(path) if path.exists() else {}).items():
        plan = Plan(*kept["plan"])
        same = name in methods and kept["method"] == asked(methods[name])
        if same and {str(b) for b in budgets} <= plan.fits.keys() | plan.errors.keys():
            found[name] = plan._replace(fits={b: Fit(*fit) for b, fit in plan.fits.items()})
    return found


# --- what it shows ------------------------------------------------------------------------------
def rules(price: Price) -> str:
    """What makes the methods comparable, in one sentence."""
    worth = (price.reward_forward, price.reward_backward)
    rewards = (
        f"a reward as {worth[0]:g}, its gradient as {worth[1]:g}"
        if any(worth)
        else "rewards as nothing"
    )
    return (
        "Every method has the size that comes nearest to the budget of evaluations per returned sample without exceeding it: "
        f"a forward pass of the network counts as 1, its backward as {price.backward:g}, {rewards}. "
        "A method with more particles than there are samples to return pays for all of them, and returns some, drawn by their "
        "weights."
    )


def reading(seeds: int) -> str:
    """How to read the figures."""
    errors = (
        f"± one standard error over {seeds} seeds, prompts as given"
        if seeds > 1
        else "of one seed, hence without errors"
    )
    return (
        f"By the weights of the samples, {errors}. No figure alone ranks the methods: a reward that was bought with held-out "
        "reward, diversity or distance to the law is no gain."
    )


def curves(folder: Path, metrics: Figures) -> list[Picture]:
    """curves.png: every figure against the evaluations that were spent."""
    panels: dict[str, dict[str, list[pictures.Point]]] = {}
    rows, draws = (
        [row for row in metrics["rows"] if "error" not in row],
        metrics["exact_draws"] or {},
    )
    for name, row in [(name, row) for name in PANELS for row in rows if measured(row, name)]:
        points = panels.setdefault(titled(name, draws), {}).setdefault(words(row["method"]), [])
        points.append(
            pictures.Point(row["spent"], row[name], row[f"{name.removesuffix('_mean')}_std_error"])
        )
    if not panels:
        return []
    levels = {titled(name, draws): draws[name] for name in PANELS if measured(draws, name)}
    ticks = sorted({row["budget"] for row in rows})
    across, distances = "evaluations per returned sample", [titled("law_distance", draws)]
    pictures.contest(folder / "curves.png", panels, across, ticks, levels, distances=distances)
    return [(reading(len(metrics["seeds"])), folder / "curves.png")]


def titled(name: str, draws: Figures) -> str:
    """A panel's title."""
    better = (
        "as exact draws have it"
        if PANELS[name] == "higher" and measured(draws, name)
        else f"{PANELS[name]} is better"
    )
    return f"{CONTEST[name]} ({better})"


def strips(
    gallery: Gallery, rows: Sequence[Figures], methods: dict[str, Sizer], seed: int
) -> list[Picture]:
    """grid.png: images of every method at the largest budget, of the first seed."""
    done = [row for row in rows if "error" not in row]
    if len(gallery.shape) != 3 or not done:
        return []
    panels = {}
    for row in done:
        path = path_of(gallery.folder, row["method"], methods[row["method"]], row["budget"], seed)
        if (
            samples := path.with_suffix(".safetensors")
        ).exists():  # not where it was another run's second seed
            kept = load_file(samples)
            panels[words(row["method"])] = Result(kept["x"], kept["log_w"], None)
    if not panels:
        return []
    return gallery.samples(panels)


def path_of(folder: Path, name: str, method: Sizer, budget: float, seed: int) -> Path:
    """Where a cell is kept, by all that it depends on."""
    return (
        folder
        / "cells"
        / f"{quote(name, safe='')}_{budget:g}_{seed}_{key(str(budget), str(method.said)):016x}.json"
    )
