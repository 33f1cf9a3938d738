"""steer verify: a sampling method held against laws known in closed form, at several step sizes and
at step zero.
"""

import inspect
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipes.evaluation.metrics import Figures
from recipes.reporting import html, pictures
from recipes.reporting.publish import publish
from recipes.setup import builders, run_directory
from recipes.setup.config import nearest
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.verification.errors import ClaimFailed
from recipes.verification.hypothesis_test import enough, figures, judge
from recipes.verification.measurement import Size, hold, hold_until
from recipes.verification.summary import HOW_TO_READ, markdown, overall, says, sizes, verdicts
from steer.analytic.benchmarks import WORLDS, World
from steer.build import resolve
from steer.samplers import Sampler
from steer.samplers.base import Claim

SMALL = Size(2, 4, 0)


def verify(job: Job) -> Path:
    """Runs the config and returns the run folder. Raises ClaimFailed where a method that claims to
    be exact does not pass.
    """
    config, start = job.config, time.perf_counter()
    size, worlds, build = size_of(config), worlds_of(config.worlds), builder(config)
    steps = steps_of(config)
    name, claim = type(build(steps[0])).__name__, claim_of(build(steps[0]))
    for world, truth in worlds.items():  # so that what does not fit says so before the work begins
        hold(build(steps[0]), steps[0], truth, world, SMALL)
    folder = run_directory.create(config)

    found, samplers = {}, {n: build(n) for n in steps}
    for world, truth in worlds.items():
        with bar(world, job.quiet):
            rounds = (
                config.rounds if claim == "exact" else 1
            )  # what claims no law has nothing to be told
            held = hold_until(partial(enough, world=truth), samplers, truth, world, size, rounds)
        found[world] = figures(held, judge(held, truth, claim), truth)
    metrics: Figures = {
        "method": name,
        "claim": claim,
        "verdict": overall(found),
        "worlds": found,
        "prompts": size.prompts,
        "particles": size.particles,
        "seconds": time.perf_counter() - start,
    }
    tell(job, folder, metrics)
    if metrics["verdict"] in ("fail", "inconclusive", "unsettled"):
        raise ClaimFailed(folder, f"{name} claims to be exact. {says(found)}")
    return folder


def tell(job: Job, folder: Path, metrics: Figures) -> None:
    """The tables in the terminal and in verify.md, the picture, metrics.json and html.html."""
    found, name, claim = metrics["worlds"], metrics["method"], html.CLAIMS[metrics["claim"]]
    tables = [verdicts(found), sizes(found)]
    text = "\n\n".join(f"{caption}\n\n{markdown(rows)}" for caption, rows in tables)
    lines = (f"# {name}", f"`{job.command}`", f"{claim} {says(found)}", text, HOW_TO_READ)
    (folder / "verify.md").write_text("\n\n".join(lines) + "\n")
    if not job.quiet:
        print(f"{text}\n\n{name} claims: {metrics['claim']}. {says(found)}\n", file=sys.stderr)
    path = folder / "log_z.png"
    drawn = [("Error of log Z against the step; in ochre, extrapolated to step 0.", path)]
    drawn = drawn if pictures.step_errors(path, found) else []
    explained = [(f"{tables[0][0]} {HOW_TO_READ}", tables[0][1]), tables[1]]
    publish(
        folder, job, metrics, f"{name}: {folder.name}", f"{claim} {says(found)}", drawn, explained
    )


# --- from the config ----------------------------------------------------------------------------
def size_of(config: DictConfig) -> Size:
    """prompts, particles and seed."""
    if config.prompts < 2 or config.particles < 1:
        raise ValueError(
            f"standard errors need prompts >= 2, and particles >= 1; got {config.prompts} and {config.particles}"
        )
    if type(config.rounds) is not int or config.rounds < 1:
        raise ValueError(
            f"rounds is the most rounds of repetitions, at least 1; got {config.rounds!r}"
        )
    return Size(config.prompts, config.particles, config.seed)


def worlds_of(names: Any) -> dict[str, World]:
    """`all`, or the worlds of those names."""
    for name in (
        names := list(WORLDS)
        if names == "all"
        else [names]
        if isinstance(names, str)
        else list(names or [])
    ):
        if name not in WORLDS:
            raise ValueError(
                f"worlds: no world is called {name!r}{nearest(name, WORLDS)}; there are: {', '.join(WORLDS)}"
            )
    if not names:
        raise ValueError(f"worlds is empty; say all, or some of {', '.join(WORLDS)}")
    return {name: WORLDS[name]() for name in names}


def steps_of(config: DictConfig) -> list[int | None]:
    """The numbers of steps, fewest first; [None] for a sampler that takes none."""
    if not takes_steps(config):
        return [None]
    steps = list(config.steps) if isinstance(config.steps, ListConfig) else [config.steps]
    if not steps or any(type(n) is not int or n < 1 for n in steps) or len(set(steps)) < len(steps):
        raise ValueError(
            f"steps is a list of different whole numbers of at least 1, such as [25,50,100]; got {steps}"
        )
    return sorted(steps)


def builder(config: DictConfig) -> Callable[[int | None], Sampler]:
    """steps -> the sampler of the config."""
    if takes_steps(config) and "steps" in config.sampler:
        raise ValueError(
            f"verify varies the sampler's steps; instead of sampler.steps say steps=[{config.sampler.steps}]"
        )
    node: Any = OmegaConf.to_container(config.sampler)
    return lambda n: builders.sampler_of({**node, "steps": n} if n else node, "sampler")


def takes_steps(config: DictConfig) -> bool:
    """Whether the sampler is built with a number of steps."""
    node = config.sampler
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ValueError(
            f"sampler is a node with a _target_, as in sampler._target_=mine.py:Mine; got {node!r}"
        )
    target = resolve(node._target_)
    return callable(target) and "steps" in inspect.signature(target).parameters


def claim_of(sampler: Sampler) -> Claim:
    """What the sampler says its samples are."""
    claim, known = getattr(sampler, "claim", None), get_args(Claim)
    if claim is None or claim not in known:
        raise ValueError(
            f"a sampler's claim is one of {', '.join(known)}; {type(sampler).__name__} has {claim!r}"
        )
    return claim
