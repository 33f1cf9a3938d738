"""steer verify: a sampler tested against distributions known in closed form.

At several numbers of steps, and extrapolated to step zero. With an objective instead of a sampler,
a map is tuned by it (`verify_tuning`).
"""

import inspect
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipes.evaluation.metrics import Figures
from recipes.reporting import html
from recipes.reporting.publish import publish
from recipes.setup import builders, run_directory
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.verification.errors import ClaimFailed
from recipes.verification.hypothesis_test import assess, figures, is_decided
from recipes.verification.measurement import SampleSize, measure, measure_until
from recipes.verification.summary import (
    HOW_TO_READ,
    conclusion,
    markdown,
    overall,
    results_table,
    steps_table,
)
from recipes.verify_tuning import verify_tuning
from steer import plots as pictures
from steer.analytic.benchmarks import WORLDS, World
from steer.build import resolve
from steer.nearest import suggestion
from steer.samplers import Sampler
from steer.samplers.base import Claim

SMALL = SampleSize(2, 4, 0)
NOT_PASSED = ("fail", "inconclusive", "unsettled")


def verify(job: Job) -> Path:
    """Runs the config and returns the run folder.

    Raises ClaimFailed where a method that claims to be exact does not pass.
    """
    config = job.config
    if config.objective is not None:
        return verify_tuning(job)
    start = time.perf_counter()
    size = size_of(config)
    worlds = worlds_of(config.worlds)
    samplers = samplers_of(config)
    steps, sampler = next(iter(samplers.items()))
    claim = claim_of(sampler)
    for name, world in worlds.items():  # a dry run: errors come before there is a run folder
        measure(sampler, steps, world, name, SMALL)
    folder = run_directory.create(config)

    rounds = config.rounds if claim == "exact" else 1  # there is no claim to decide
    found = {}
    for name, world in worlds.items():
        with bar(name, job.quiet):
            done = partial(is_decided, world=world)
            runs = measure_until(done, samplers, world, name, size, rounds)
        found[name] = figures(runs, assess(runs, world, claim), world)
    metrics: Figures = {
        "method": type(sampler).__name__,
        "claim": claim,
        "verdict": overall(found),
        "worlds": found,
        "prompts": size.prompts,
        "particles": size.particles,
        "seconds": time.perf_counter() - start,
    }
    report(job, folder, metrics)
    if metrics["verdict"] in NOT_PASSED:
        raise ClaimFailed(folder, f"{metrics['method']} claims to be exact. {conclusion(found)}")
    return folder


def report(job: Job, folder: Path, metrics: Figures) -> None:
    """Writes the tables to the terminal and verify.md, the picture, metrics and report."""
    found = metrics["worlds"]
    name = metrics["method"]
    claim = html.CLAIMS[metrics["claim"]]
    summary = conclusion(found)
    by_world = results_table(found)
    by_steps = steps_table(found)
    tables = "\n\n".join(f"{caption}\n\n{markdown(rows)}" for caption, rows in (by_world, by_steps))
    parts = (f"# {name}", f"`{job.command}`", f"{claim} {summary}", tables, HOW_TO_READ)
    (folder / "verify.md").write_text("\n\n".join(parts) + "\n")
    if not job.quiet:
        print(f"{tables}\n\n{name} claims: {metrics['claim']}. {summary}\n", file=sys.stderr)
    path = folder / "log_z.png"
    drawn = []
    if pictures.step_errors(path, found):
        drawn = [("Error of log Z against the step; in ochre, extrapolated to step 0.", path)]
    caption, rows = by_world
    explained = [(f"{caption} {HOW_TO_READ}", rows), by_steps]
    title = f"{name}: {folder.name}"
    publish(folder, job, metrics, title, f"{claim} {summary}", drawn, explained)


# --- from the config ----------------------------------------------------------------------------
def size_of(config: DictConfig) -> SampleSize:
    """prompts, particles and seed."""
    if config.prompts < 2 or config.particles < 1:
        raise ValueError(
            "standard errors need prompts >= 2, and particles >= 1; "
            f"got {config.prompts} and {config.particles}"
        )
    if type(config.rounds) is not int or config.rounds < 1:
        raise ValueError(
            f"rounds is the most rounds of repetitions, at least 1; got {config.rounds!r}"
        )
    return SampleSize(config.prompts, config.particles, config.seed)


def worlds_of(asked: Any) -> dict[str, World]:
    """The worlds by name: all of them for "all", one, or those of a list."""
    known = ", ".join(WORLDS)
    names = [asked] if isinstance(asked, str) else list(asked or [])
    if asked == "all":
        names = list(WORLDS)
    if not names:
        raise ValueError(f"worlds is empty; say all, or some of {known}")
    for name in names:
        if name not in WORLDS:
            near = suggestion(name, WORLDS)
            raise ValueError(f"worlds: no world is called {name!r}{near}; there are: {known}")
    return {name: WORLDS[name]() for name in names}


def samplers_of(config: DictConfig) -> dict[int | None, Sampler]:
    """The sampler of the config by number of steps, fewest first; by None if it takes none."""
    node: Any = OmegaConf.to_container(config.sampler)
    if not takes_steps(config):
        return {None: builders.sampler_of(node, "sampler")}
    if "steps" in config.sampler:
        raise ValueError(
            "verify varies the sampler's steps; "
            f"instead of sampler.steps say steps=[{config.sampler.steps}]"
        )
    return {n: builders.sampler_of({**node, "steps": n}, "sampler") for n in steps_of(config)}


def steps_of(config: DictConfig) -> list[int]:
    """The numbers of steps, fewest first."""
    steps = list(config.steps) if isinstance(config.steps, ListConfig) else [config.steps]
    if not steps or any(type(n) is not int or n < 1 for n in steps) or len(set(steps)) < len(steps):
        raise ValueError(
            "steps is a list of different whole numbers of at least 1, such as [25,50,100]; "
            f"got {steps}"
        )
    return sorted(steps)


def takes_steps(config: DictConfig) -> bool:
    """Whether the sampler is built with a number of steps."""
    node = config.sampler
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ValueError(
            "sampler is a node with a _target_, as in sampler._target_=mine.py:Mine, or objective"
            f" is one; got {node!r}"
        )
    target = resolve(node._target_)
    return callable(target) and "steps" in inspect.signature(target).parameters


def claim_of(sampler: Sampler) -> Claim:
    """What the sampler claims of its samples."""
    claim = getattr(sampler, "claim", None)
    known = get_args(Claim)
    if claim is None or claim not in known:
        name = type(sampler).__name__
        raise ValueError(f"a sampler's claim is one of {', '.join(known)}; {name} has {claim!r}")
    return claim
