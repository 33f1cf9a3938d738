"""steer verify with an objective: a map is tuned, and its density compared with the tilted law."""

import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipes.evaluation.metrics import Figures
from recipes.reporting import html
from recipes.reporting.publish import publish
from recipes.reporting.tables import Table
from recipes.setup import builders, run_directory
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.verification.errors import ClaimFailed
from recipes.verification.summary import markdown
from recipes.verification.tuned import LEAST, SHARE, Training, held
from steer.analytic.benchmarks import TUNING_WORLDS, World
from steer.nearest import suggestion
from steer.tuning import TuningObjective

HOW_TO_READ = (
    "KL is the divergence of the model from the tilted law in nats, by the exact density of the"
    " sampler, ± one standard error; of samplers that fold, one branch is seen, and it can be below"
    " zero. W1 is the Wasserstein distance (sliced in more than one dimension), its floor that of"
    " two sets of exact draws. An objective that claims to be exact passes where many steps leave"
    f" at most {SHARE:.0%} of the base's divergence, or {LEAST:g} nats, within three standard"
    " errors; what a short training leaves counts against it."
)


def verify_tuning(job: Job) -> Path:
    """Runs the config and returns the run folder.

    Raises ClaimFailed where an objective that claims to be exact does not pass.
    """
    config = job.config
    start = time.perf_counter()
    worlds = worlds_of(config.worlds)
    training = Training(seed=config.seed, **config.training)
    objective = objective_of(config)
    folder = run_directory.create(config)
    found = {}
    for name, world in worlds.items():
        with bar(name, job.quiet):
            found[name], _ = held(objective_of(config), world, training)
    metrics: Figures = {
        "method": type(objective).__name__,
        "claim": objective.claim,
        "verdict": overall(found),
        "worlds": found,
        "seconds": time.perf_counter() - start,
    }
    report(job, folder, metrics)
    if metrics["verdict"] == "fail":
        where = ", ".join(name for name, world in found.items() if world["verdict"] == "fail")
        raise ClaimFailed(
            folder, f"{metrics['method']} claims to be exact. The claim fails in: {where}."
        )
    return folder


def overall(found: dict[str, Figures]) -> str:
    """The worst verdict of all worlds."""
    verdicts = {world["verdict"] for world in found.values()}
    return next(verdict for verdict in ("fail", "no claim", "pass") if verdict in verdicts)


def report(job: Job, folder: Path, metrics: Figures) -> None:
    """Writes the table to the terminal and verify.md, metrics and report."""
    rows = table_of(metrics["worlds"])
    claim = html.TUNED[metrics["claim"]]
    table = markdown(rows)
    parts = (f"# {metrics['method']}", f"`{job.command}`", claim, table, HOW_TO_READ)
    (folder / "verify.md").write_text("\n\n".join(parts) + "\n")
    if not job.quiet:
        print(f"{table}\n\n{metrics['method']} claims: {metrics['claim']}.\n", file=sys.stderr)
    tables: list[Table] = [(HOW_TO_READ, rows)]
    publish(folder, job, metrics, f"{metrics['method']}: {folder.name}", claim, [], tables)


def table_of(found: dict[str, Figures]) -> list[list[Any]]:
    """A row for each world: divergences by sampler, those of the base, distances and the cost."""
    names = list(next(iter(found.values()))["tuned"])
    head = [
        "world",
        *(f"KL, {name}" for name in names),
        "KL, base",
        *(f"W1, {name}" for name in names),
        "W1, floor",
        "evaluations",
        "verdict",
    ]
    rows = []
    for name, world in found.items():
        tuned = [world["tuned"][sampler] for sampler in names]
        rows.append(
            [
                name,
                *(html.plus_minus(one["kl"], one["kl_std_error"]) for one in tuned),
                html.number(world["base"][names[-1]]["kl"]),
                *(html.number(one["w1"]) for one in tuned),
                html.number(world["w1_floor"]),
                html.number(world["forward_equivalents"]),
                world["verdict"],
            ]
        )
    return [head, *rows]


# --- from the config ----------------------------------------------------------------------------
def objective_of(config: DictConfig) -> TuningObjective:
    """A new objective of the config."""
    return builders.made_as(TuningObjective, config.objective)


def worlds_of(asked: Any) -> dict[str, World]:
    """The worlds by name: all of them for "all", one, or those of a list."""
    names = [asked] if isinstance(asked, str) else [str(name) for name in asked or [""]]
    if asked == "all":
        names = list(TUNING_WORLDS)
    for name in names:
        if name not in TUNING_WORLDS:
            near = suggestion(name, TUNING_WORLDS)
            known = ", ".join(TUNING_WORLDS)
            raise ValueError(f"worlds: no world is called {name!r}{near}; to tune in: {known}")
    return {name: TUNING_WORLDS[name]() for name in names}
