"""steer compare: several methods at equal evaluations per returned sample, over several seeds.

Where a method has more particles than samples are asked for, the returned ones are drawn by the
weights and bear the cost of all. A cell is a method at a budget with a seed: these three key all of
its randomness, and its results are kept in the run folder, so that a run that was stopped resumes
to the same numbers.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from recipes.comparison.benchmark import Benchmark
from recipes.comparison.budget import Fit, Plan, Price, Sizer
from recipes.comparison.cells import CellMetrics, average_row, cell, read, write
from recipes.evaluation.closed_form import closed_form
from recipes.evaluation.metrics import Figures
from recipes.reporting.figures import Picture, gallery_of
from recipes.reporting.publish import publish
from recipes.reporting.tables import (
    HELDOUT,
    METRICS,
    by_name,
    left_out,
    markdown,
    measured,
    method_tables,
    overview,
    words,
)
from recipes.setup import builders, run_directory
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.job import Job
from recipes.setup.processes import Processes, processes_of
from recipes.setup.progress_bar import bar, with_source
from steer import plots as pictures
from steer.data.stream import key
from steer.progress import shown_by, track
from steer.samplers import BestOfN, Result, Sampler

PANELS = {  # which way each is better, where the tilted law is not known
    "reward_mean": "higher",
    **dict.fromkeys(HELDOUT, "higher"),
    "judge_accuracy": "higher",
    "diversity": "higher",
    "law_distance": "lower",
    "log_z_error": "0",
}
PLANS = "plans.json"  # the sizes of the methods
FREE = ("methods", "budgets", "seeds")  # may change when a run is resumed
METHOD_KEYS = {"sampler", "size", "candidates", "most"}
BEST_OF_N = {"best_of_N_by_1_jump": 1, "best_of_N_by_4_jumps": 4}  # added where no method is one

Cells = dict[tuple[str, float], list[Figures]]  # by method and budget, one for each seed


def compare(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = completed(job.config)
    job = replace(job, config=config)
    processes = processes_of(config)
    with processes.together():
        experiment = experiment_of(config)
        price = Price(**config.price)
        methods = methods_of(config, benchmark_of(experiment), price)
        budgets = budgets_of(config)
        seeds = seeds_of(config)
        exact = None
        if experiment.prompts.cond is None:
            exact = closed_form(experiment.model.flow_map, experiment.tilt)

    def opened() -> tuple[Path, dict[str, Plan]]:
        old_folder = run_directory.to_resume(config, FREE) if config.run.resume else None
        plans = plans_of(methods, budgets, old_folder, job.quiet)
        return prepared(old_folder, config, methods, plans), plans

    folder, plans = processes.of_first(opened)
    cell_metrics = CellMetrics(experiment.measure, exact)
    cells = measure_all(folder, methods, plans, budgets, seeds, cell_metrics, processes, job.quiet)
    processes.leave()

    rows = [
        {"method": name, "budget": b, **average_row(methods[name], plans[name], b, done)}
        for (name, b), done in cells.items()
    ]
    warn_of_left_out(rows)
    metrics: Figures = {
        "method": "compare",
        "heldout_rewards": experiment.measure.heldout_names,
        "rows": rows,
        "seeds": seeds,
        "exact_draws": cell_metrics.of_exact_draws(config.particles),
    }
    title = f"Comparison: {folder.name}"
    claim_line = rules(price)
    tables = [*method_tables(metrics), *left_out(metrics)]
    page = markdown(title, f"{claim_line} {reading(len(seeds))}", tables)
    (folder / "compare.md").write_text(page)
    last = [row for row in rows if row["budget"] == budgets[-1]]
    gallery = gallery_of(experiment, folder)
    images = len(gallery.shape) == 3
    results = kept_samples(folder, last, methods, seeds[0]) if images else {}
    first = overview(metrics, {name: gallery.strip(name, one) for name, one in results.items()})
    drawn = [*curves(folder, metrics), *(gallery.samples(results) if results else [])]
    return publish(folder, job, metrics, title, claim_line, drawn, [first, *tables])


def benchmark_of(experiment: Experiment) -> Benchmark:
    """What every method is given."""
    config = experiment.config
    return Benchmark(
        experiment.flow_map,
        experiment.required_tilt(),
        experiment.prompts.cond,
        len(experiment.prompts),
        config.particles,
        experiment.noise.part(range(1))[0, :0],
        config.max_batch,
    )


def prepared(
    folder: Path | None, config: DictConfig, methods: Mapping[str, Sizer], plans: Mapping[str, Plan]
) -> Path:
    """The run folder, new or resumed, with its config and plans written."""
    if folder is None:
        folder = run_directory.create(config)
    else:
        run_directory.save(config, folder)
    (folder / "cells").mkdir(exist_ok=True)
    kept = {name: {"method": identity(methods[name]), "plan": p} for name, p in plans.items()}
    write(folder / PLANS, kept)
    return folder


def measure_all(
    folder: Path,
    methods: Mapping[str, Sizer],
    plans: Mapping[str, Plan],
    budgets: Sequence[float],
    seeds: Sequence[int],
    cell_metrics: CellMetrics,
    processes: Processes,
    quiet: bool,
) -> Cells:
    """All cells that have a size, seed by seed, shared out among the processes.

    Samples are kept of the first seed.
    """
    cells: Cells = {(name, b): [] for name in methods for b in budgets}
    todo = [(seed, name, b) for seed in seeds for name, b in cells if str(b) in plans[name].fits]
    found: dict[tuple[int, str, float], Figures] = {}
    said: set[tuple[str, str]] = set()
    with processes.together(), bar("cells", quiet or not processes.first):
        for seed, name, b in track(processes.share(todo)):
            method = methods[name]
            path = path_of(folder, name, method, b, seed)
            source = (str(seed), name, str(b))
            where = f"at {b:g} evaluations, seed {seed}"
            first = seed == seeds[0]
            with shown_by(iter), with_source(words(name), where, said):
                done = cell(path, method, plans[name], b, source, cell_metrics, first)
            found[seed, name, b] = done
    everyone = processes.gathered(found)
    for seed, name, b in todo:
        cells[name, b] += [mine[seed, name, b] for mine in everyone if (seed, name, b) in mine]
    return cells


def warn_of_left_out(rows: Sequence[Figures]) -> None:
    """Warns of each method that has no row at any budget, with the reason at the smallest."""
    able = {row["method"] for row in rows if "error" not in row}
    reasons = {row["method"]: row["error"] for row in reversed(rows) if "error" in row}
    for name, reason in reasons.items():
        if name not in able:
            warnings.warn(f"methods.{name} is left out: {reason}", stacklevel=3)


# --- from the config ----------------------------------------------------------------------------
def completed(config: DictConfig) -> DictConfig:
    """The config without the methods set to null, and with best of N among them."""
    plain: Any = OmegaConf.to_container(config)
    methods = {name: node for name, node in plain["methods"].items() if node is not None}
    if not methods:
        raise ValueError(
            "methods is empty; name at least one, "
            "as in methods.mine.sampler._target_=steer.samplers.Sde"
        )
    for name, node in methods.items():
        if not isinstance(node, dict) or "sampler" not in node or node.keys() - METHOD_KEYS:
            raise ValueError(
                f"methods.{name} has a sampler, and may have size, candidates and most; "
                f"got {node!r}"
            )
    if not any(type(sampler_of(name, node)) is BestOfN for name, node in methods.items()):
        for name, steps in BEST_OF_N.items():
            methods.setdefault(name, {"sampler": best_of_jumps(steps, config.max_batch)})
    done = OmegaConf.create({**plain, "methods": methods})
    OmegaConf.set_readonly(done, True)
    return done


def best_of_jumps(steps: int, max_batch: int) -> dict[str, Any]:
    """The node of best of N over samples of so many jumps."""
    base = {"_target_": "steer.samplers.Jump", "max_batch": max_batch, "steps": steps}
    return {"_target_": "steer.samplers.BestOfN", "base_sampler": base}


def sampler_of(name: str, node: dict[str, Any]) -> Sampler:
    """The sampler of a method as it is written, whatever its size will be."""
    key = f"methods.{name}.sampler"
    with builders.at(key):
        return builders.sampler_of(node["sampler"], key)


def methods_of(config: DictConfig, benchmark: Benchmark, price: Price) -> dict[str, Sizer]:
    """The methods by name."""
    nodes: Any = OmegaConf.to_container(config.methods)
    return {str(name): method_of(name, node, benchmark, price) for name, node in nodes.items()}


def method_of(name: str, node: dict[str, Any], benchmark: Benchmark, price: Price) -> Sizer:
    """One method. Raises ValueError, naming it, if its size cannot be varied as asked."""
    try:
        return Sizer(
            node["sampler"],
            node.get("size"),
            node.get("candidates"),
            benchmark,
            price,
            node.get("most"),
        )
    except ValueError as error:
        raise ValueError(f"methods.{name}: {error}") from error


def budgets_of(config: DictConfig) -> list[float]:
    """The budgets, the smallest first."""
    budgets = list(config.budgets)
    if not budgets or not all(isinstance(b, int | float) and b > 0 for b in budgets):
        raise ValueError(
            "budgets is a list of evaluations per returned sample, such as [30, 100]; "
            f"got {budgets}"
        )
    return sorted(set(map(float, budgets)))


def seeds_of(config: DictConfig) -> list[int]:
    """The seeds: so many from config.seed, or those of a list."""
    wanted = 3 if config.seeds is None else config.seeds
    if isinstance(wanted, int):
        seeds = list(range(config.seed, config.seed + wanted))
    else:
        seeds = list(dict.fromkeys(wanted))
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(f"seeds is how many, at least 1, or a list of whole numbers; got {wanted}")
    return seeds


def plans_of(
    methods: Mapping[str, Sizer], budgets: Sequence[float], folder: Path | None, quiet: bool
) -> dict[str, Plan]:
    """The sizes of each method, as a resumed run has kept them, or searched for.

    Raises:
        ValueError: no method can be run, or none within one of the budgets.
    """
    plans = {} if folder is None else kept_plans(folder / PLANS, methods, budgets)
    with bar("sizes", quiet):
        for name in track([name for name in methods if name not in plans]):
            with shown_by(iter):
                plans[name] = methods[name].plan(budgets)
    least = {name: plan.least for name, plan in plans.items() if plan.least is not None}
    if not least:
        reason = next(iter(plans.values())).errors[str(budgets[0])]
        raise ValueError(f"no method can be run: {reason}")
    cheapest = min(least, key=lambda name: least[name])
    if least[cheapest] > budgets[0]:
        needs = f"the cheapest method, {cheapest}, needs {least[cheapest]:g} evaluations per sample"
        raise ValueError(f"budgets has {budgets[0]:g}, but {needs}; raise it")
    return plans


def identity(method: Sizer) -> dict[str, Any]:
    """What a method's plan depends on."""
    return {**method.identity, "most": method.most}


def kept_plans(
    path: Path, methods: Mapping[str, Sizer], budgets: Sequence[float]
) -> dict[str, Plan]:
    """The plans in a file that are still valid: of unchanged methods, and for all budgets."""
    wanted = {str(b) for b in budgets}
    found = {}
    for name, kept in (read(path) if path.exists() else {}).items():
        plan = Plan(*kept["plan"])
        same = name in methods and kept["method"] == identity(methods[name])
        if same and wanted <= plan.fits.keys() | plan.errors.keys():
            found[name] = plan._replace(fits={b: Fit(*fit) for b, fit in plan.fits.items()})
    return found


# --- the report ---------------------------------------------------------------------------------
def rules(price: Price) -> str:
    """What makes the methods comparable."""
    rewards = "rewards as nothing"
    if price.reward_forward or price.reward_backward:
        rewards = f"a reward as {price.reward_forward:g}, its gradient as {price.reward_backward:g}"
    return (
        "Every method has the size that comes nearest to the budget of evaluations per returned"
        " sample without exceeding it: a forward pass of the network counts as 1, its backward as"
        f" {price.backward:g}, {rewards}. A method with more particles than there are samples to"
        " return pays for all of them, and returns some, drawn by their weights."
    )


def reading(seeds: int) -> str:
    """How to read the figures."""
    errors = "of one seed, hence without errors"
    if seeds > 1:
        errors = f"± one standard error over {seeds} seeds, prompts as given"
    return (
        f"By the weights of the samples, {errors}. No figure alone ranks the methods: a reward that"
        " was bought with held-out reward, diversity or distance to the law is no gain."
    )


def curves(folder: Path, metrics: Figures) -> list[Picture]:
    """curves.png: every figure against the evaluations that were spent."""
    draws = metrics["exact_draws"] or {}
    words_of = by_name(METRICS, metrics)
    titles = {name: titled(name, words_of[name], draws) for name in PANELS}
    rows = [row for row in metrics["rows"] if "error" not in row]
    panels: dict[str, dict[str, list[pictures.Point]]] = {}
    for name in PANELS:
        for row in rows:
            if measured(row, name):
                panel = panels.setdefault(titles[name], {})
                panel.setdefault(words(row["method"]), []).append(point(row, name))
    if not panels:
        return []
    path = folder / "curves.png"
    pictures.cost_curves(
        path,
        panels,
        across="evaluations per returned sample",
        ticks=sorted({row["budget"] for row in rows}),
        levels={titles[name]: draws[name] for name in PANELS if measured(draws, name)},
        distances=[titles["law_distance"]],
    )
    return [(reading(len(metrics["seeds"])), path)]


def point(row: Figures, name: str) -> pictures.Point:
    """A figure of a row against its cost, with its standard error."""
    return pictures.Point(row["spent"], row[name], row[f"{name.removesuffix('_mean')}_std_error"])


def titled(name: str, word: str, draws: Figures) -> str:
    """A panel's title."""
    better = f"{PANELS[name]} is better"
    if PANELS[name] == "higher" and measured(draws, name):
        better = "as exact draws have it"
    return f"{word} ({better})"


def kept_samples(
    folder: Path, rows: Sequence[Figures], methods: Mapping[str, Sizer], seed: int
) -> dict[str, Result]:
    """The samples of every method at the budget of these rows, of one seed, by the method."""
    found = {}
    for row in rows:
        if "error" in row:
            continue
        name = row["method"]
        path = path_of(folder, name, methods[name], row["budget"], seed)
        samples = path.with_suffix(".safetensors")
        if samples.exists():  # not where it was another run's second seed
            kept = load_file(samples)
            found[words(name)] = Result(kept["x"], kept["log_w"], None)
    return found


def path_of(folder: Path, name: str, method: Sizer, budget: float, seed: int) -> Path:
    """The file of a cell, by all that it depends on."""
    code = key(str(budget), str(method.identity))
    return folder / "cells" / f"{quote(name, safe='')}_{budget:g}_{seed}_{code:016x}.json"
