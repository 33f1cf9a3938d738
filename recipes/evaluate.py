"""steer evaluate: distances of a map's samples to data, by each sampler, beside their floor."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from recipes.evaluation.metrics import Figures
from recipes.evaluation.reference import Reference
from recipes.reporting import html
from recipes.reporting.figures import Gallery, gallery_of
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import Table, words
from recipes.setup import builders, run_directory
from recipes.setup.drawn import Drawn, joined
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.job import Job
from recipes.setup.memory import told_of_memory
from recipes.setup.parts import Parts, opened
from recipes.setup.processes import processes_of
from recipes.setup.progress_bar import bar
from steer.pixels import as_saved
from steer.samplers import Result, Sampler

FLOOR = "data against data"


def evaluate(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = job.config
    processes = processes_of(config)
    with processes.together():
        reference = builders.made_as(Reference, config.reference)  # type: ignore[type-abstract]
        samplers = samplers_of(config)
        experiment = experiment_of(config)
    parts, missing = opened(config, len(experiment.prompts), processes)
    if missing is None:
        return parts.folder
    gallery = gallery_of(experiment, parts.folder)
    mine = processes.share(missing)
    with run_directory.dropped_if_refused(parts.folder), processes.together():
        draw_parts(parts, mine, experiment, samplers, gallery.shown, processes.quieter(job))
    processes.leave()
    reported(parts, experiment, reference, samplers, gallery, job)
    parts.drop()
    return parts.folder


@torch.no_grad()
def draw_parts(
    parts: Parts,
    missing: Sequence[range],
    experiment: Experiment,
    samplers: Mapping[str, Sampler],
    shown: int,
    job: Job,
) -> None:
    """Draws the parts that are missing by each sampler, and keeps the samples and what is seen."""
    for part in missing:
        tensors: dict[str, Tensor] = {}
        kept: Figures = {}
        for name, sampler in samplers.items():
            start = time.perf_counter()
            title = parts.title(name, part)
            with told_of_memory(f"drawing {title}", job.config, parts.begun):
                with bar(title, job.quiet):
                    result = experiment.draw(sampler, None, "evaluate", prompts=part)
                tensors[f"{name}.seen"] = seen(experiment, result)
            drawn = Drawn(replace(result, trace={}), {}, time.perf_counter() - start)
            first = max(shown - part.start, 0)
            tensors |= drawn.tensors(name, first, whole=False)
            kept[name] = drawn.figures()
        parts.keep(part, tensors, kept)


def reported(
    parts: Parts,
    experiment: Experiment,
    reference: Reference,
    samplers: Mapping[str, Sampler],
    gallery: Gallery,
    job: Job,
) -> None:
    """Compares the samples of all parts with the reference, and writes the report."""
    config = job.config
    results: dict[str, Result] = {}
    figures: dict[str, Figures] = {}
    count = experiment.noise.shape[0] * experiment.noise.shape[1]
    with torch.no_grad():
        for name in samplers:
            drawn = joined(parts, name, gallery.shown)
            results[name] = drawn.result
            figures[name] = {
                **reference(torch.cat(parts.read(f"{name}.seen")), told(experiment)),
                "network_forward": drawn.result.evaluations.network_forward,
                "seconds": drawn.seconds,
            }
        floor = reference.floor(count)
    metrics: Figures = {
        "method": "evaluate",
        "samples": count,
        "samplers": figures,
        "floor": floor,
    }
    panels = {words(name): result for name, result in results.items()}
    model = config.model if isinstance(config.model, str) else "the map"
    publish(
        gallery.folder,
        job,
        metrics,
        f"Evaluation: {gallery.folder.name}",
        f"The samples of {model}, compared with data.",
        gallery.samples(panels, data=reference.examples(told(experiment))),
        [table(metrics)],
        headline(metrics),
    )


def samplers_of(config: DictConfig) -> dict[str, Sampler]:
    """The samplers by name, without those set to null. Raises ValueError if there is none."""
    nodes = {name: node for name, node in config.samplers.items() if node is not None}
    if not nodes:
        raise ValueError(
            "samplers is empty; name at least one, "
            "as in samplers.1_jump._target_=steer.samplers.Jump"
        )
    return {name: builders.sampler_of(node) for name, node in nodes.items()}


def told(experiment: Experiment) -> Tensor | None:
    """The labels that the model is given, one per prompt, or None."""
    return labels_of(experiment) if experiment.config.condition.model else None


def labels_of(experiment: Experiment) -> Tensor | None:
    """The labels that are asked for, one per prompt, or None."""
    cond = experiment.prompts.cond
    return cond.cpu() if isinstance(cond, Tensor) else None


def compared(
    experiment: Experiment, result: Result, reference: Reference, labels: Tensor | None
) -> Figures:
    """The figures of the samples against the reference.

    Args:
        experiment: with the decoder.
        result: the samples.
        reference: the data that they are compared with.
        labels: those asked for, one per prompt; None to compare without them.
    """
    return reference(seen(experiment, result).cpu(), labels)


def seen(experiment: Experiment, result: Result) -> Tensor:
    """The samples as a reference sees them: decoded, and as 8-bit files keep them."""
    x = result.x
    if experiment.decode is None:
        return x
    return as_saved(experiment.decode(x.flatten(0, 1))).unflatten(0, x.shape[:2])


def rows_of(metrics: Figures) -> dict[str, Figures]:
    """The figures of each sampler, and of data against data."""
    return {**metrics["samplers"], FLOOR: metrics["floor"]}


def headline(metrics: Figures) -> Headline:
    """The first figure of the reference, for each sampler and for data against data."""
    rows = rows_of(metrics)
    first = next(iter(rows[FLOOR]))
    return [(f"{words(first)}, {words(row)}", figures[first]) for row, figures in rows.items()]


def table(metrics: Figures) -> Table:
    """A row for each sampler, and one for data against data."""
    rows = rows_of(metrics)
    names = [name for name in next(iter(rows.values())) if not name.endswith("std_error")]
    body: list[list[Any]] = [
        [words(row), *(html.plus_minus(f.get(name), f.get(f"{name}_std_error")) for name in names)]
        for row, f in rows.items()
    ]
    caption = (
        f"{metrics['samples']:,} samples each. A distance is as good as it gets at the last row's."
    )
    return caption, [["", *map(words, names)], *body]
