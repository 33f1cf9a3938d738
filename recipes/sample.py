"""steer sample: samples steered by a reward, beside unsteered ones from the same noise.

Prompts are sampled and measured a part at a time, and a run that was stopped goes on with the parts
that are missing, to the same numbers.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recipes.evaluation import collapse
from recipes.evaluation.closed_form import closed_form
from recipes.evaluation.metrics import Figures, of_population
from recipes.evaluation.price import figures, joined_figures, priced
from recipes.reporting import html, image_folders
from recipes.reporting.figures import Gallery, gallery_of
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import comparison, cost, estimate, price_table
from recipes.setup import run_directory
from recipes.setup.builders import sampler_of
from recipes.setup.drawn import Drawn, joined
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.job import Job
from recipes.setup.memory import told_of_memory
from recipes.setup.parts import Parts, opened
from recipes.setup.processes import processes_of
from recipes.setup.progress_bar import bar
from steer.samplers import Result, Sampler

DIVERGED = 100.0  # times the reach of unsteered samples


def sample(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = job.config
    processes = processes_of(config)
    with processes.together():
        experiment = experiment_of(config)
        samplers = {"unsteered": sampler_of(config.base), "steered": sampler_of(config.sampler)}
        if config.images is not None:
            image_folders.refuse_points(shape_of_pictures(experiment), config.images)
            image_folders.refuse_columns(experiment.prompts, config.images)
    parts, missing = opened(config, len(experiment.prompts), processes)
    if missing is None:
        return parts.folder
    gallery = gallery_of(experiment, parts.folder)
    mine = processes.share(missing)
    with run_directory.dropped_if_refused(parts.folder), processes.together():
        draw_parts(parts, mine, experiment, samplers, gallery, processes.quieter(job))
    processes.leave()
    reported(parts, experiment, samplers["steered"], gallery, job)
    parts.drop()
    return parts.folder


def draw_parts(
    parts: Parts,
    missing: Sequence[range],
    experiment: Experiment,
    samplers: Mapping[str, Sampler],
    gallery: Gallery,
    job: Job,
) -> None:
    """Draws, measures and keeps the parts that are missing."""
    config = job.config
    measure = experiment.measure
    rewards = [reward for reward in (measure.reward, *measure.heldout) if reward is not None]
    records = image_folders.records_of(experiment.prompts)
    for part in missing:
        shown = max(gallery.shown - part.start, 0)
        tensors: dict[str, Tensor] = {}
        kept: Figures = {}
        with priced(rewards) as prices:
            results = {}
            for name, sampler in samplers.items():
                title = parts.title(name, part)
                with told_of_memory(f"drawing {title}", config, parts.begun), bar(title, job.quiet):
                    results[name] = draw(experiment, sampler, name, part)
            with told_of_memory(f"measuring {title}", config, parts.begun):
                if config.images is not None:
                    image_folders.write(
                        gallery, results["steered"][0], records, config.seed, config.images, part
                    )
                for name, (result, seconds) in results.items():
                    drawn = Drawn(result, experiment.measured(result, part), seconds)
                    tensors |= drawn.tensors(name, shown, whole=name == "steered")
                    kept[name] = drawn.figures()
        parts.keep(part, tensors, {**kept, **figures(prices)})


def draw(experiment: Experiment, sampler: Sampler, name: str, part: range) -> tuple[Result, float]:
    """The samples of a part and the seconds they took; `name` is the key of their randomness."""
    start = time.perf_counter()
    tilt = experiment.tilt if name == "steered" else None
    result = experiment.draw(sampler, tilt, name, prompts=part)
    return replace(result, claim=result.claim or sampler.claim), time.perf_counter() - start


def reported(
    parts: Parts, experiment: Experiment, sampler: Sampler, gallery: Gallery, job: Job
) -> None:
    """Joins the parts in the run folder: samples, metrics, pictures and report."""
    config = job.config
    folder = gallery.folder
    base, steered = (joined(parts, name, gallery.shown) for name in ("unsteered", "steered"))
    warn_if_diverged(steered.reach, base.reach)
    parts.join({"log_w": "steered.log_w", "x": "steered.x"}, folder / "samples.safetensors")
    if config.images == "plain":
        records = image_folders.records_of(experiment.prompts)
        particles = steered.result.log_w.shape[1]
        image_folders.write_index(folder, records, particles, config.seed)

    measure = experiment.measure
    of_steered, of_base = measure.figures(steered.measured), measure.figures(base.measured)
    exact = None if config.guidances else closed_form(experiment.model.flow_map, experiment.tilt)
    price = joined_figures(parts.figures())
    metrics: Figures = {
        "method": type(sampler).__name__,
        "claim": steered.result.claim,
        "particles": config.particles,
        "heldout_rewards": measure.heldout_names,
        **of_steered,
        **of_population(steered.result),
        "log_z_exact": None if exact is None else exact.log_z,
        "seconds": steered.seconds,
        **{f"base_{name}": value for name, value in of_base.items()},
        "base_evaluations": of_population(base.result)["evaluations"],
        "base_seconds": base.seconds,
        **price,
        "warnings": collapse.signs_of_steering(of_base, of_steered, steered.result.log_w),
    }
    truth = None if exact is None else exact.draws()
    trace = steered.result.trace
    drawn = [
        *gallery.samples(
            {"unsteered": base.result, "steered": steered.result},
            truth,
            {"unsteered": base.measured, "steered": steered.measured},
        ),
        *gallery.film(trace, experiment.device),
        *gallery.curves(trace, config.particles, metrics["base_reward_mean"]),
    ]
    tables = [comparison(metrics, "unsteered", "steered"), cost(metrics)]
    tables += [price_table(metrics)] if price["price"] else []
    title = f"{metrics['method']}: {folder.name}"
    claim_line = html.CLAIMS[metrics["claim"]]
    publish(folder, job, metrics, title, claim_line, drawn, tables, headline(metrics))


def shape_of_pictures(experiment: Experiment) -> tuple[int, ...]:
    """The shape of one sample, decoded if there is a decoder: a film of one image is an image."""
    if experiment.decode is None:
        return experiment.model.shape
    x0 = experiment.noise.part(range(1))[0, :1]
    with torch.no_grad():
        return tuple(experiment.decode(x0).shape[1:])


def warn_if_diverged(steered: float, unsteered: float) -> None:
    """Warns of samples so far from the unsteered ones that the steering most likely diverged.

    Args:
        steered, unsteered: the largest absolute value of each.
    """
    if steered > DIVERGED * max(unsteered, 1.0):  # noise, which both start from, is beyond 1
        warnings.warn(
            f"steered samples reach {steered:.3g}, unsteered ones {unsteered:.3g}: unless the"
            " reward asks for that, the steering has diverged; lower tilt.scale, or take more"
            " steps",
            stacklevel=2,
        )


def headline(metrics: Figures) -> Headline:
    """The figures at the head of the report."""
    return [
        ("reward, steered", estimate(metrics, "reward_mean")),
        ("reward, unsteered", estimate(metrics, "base_reward_mean")),
        ("held-out reward, steered", estimate(metrics, "heldout_reward_mean")),
        ("held-out reward, unsteered", estimate(metrics, "base_heldout_reward_mean")),
        ("judge's accuracy, steered", estimate(metrics, "judge_accuracy")),
        *(
            (words, metrics[name])
            for name, words in (("log_z", "log Z"), ("log_z_exact", "log Z, closed form"))
            if metrics["log_z"] is not None and metrics[name] is not None
        ),
    ]
