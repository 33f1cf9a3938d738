"""steer evaluate: how near a map's samples are to the data, by each way of sampling, beside data
against data.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.evaluation.metrics import Figures, Measure
from recipes.evaluation.reference import Yardstick
from recipes.reporting import html
from recipes.reporting.figures import Gallery
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import Table, words
from recipes.setup import builders, run_directory
from recipes.setup.dry_run import rehearse
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from steer.data.stream import keyed_generator
from steer.samplers import Result, Sampler

FLOOR = "data against data"


def evaluate(job: Job) -> Path:
    """Runs the config and returns the run folder."""
    config = job.config
    model, prompts, yardstick = (
        builders.model_of(config),
        builders.prompts_of(config),
        builders.make(config.yardstick),
    )
    samplers = {
        name: builders.sampler_of(node)
        for name, node in config.samplers.items()
        if node is not None
    }
    flow_map, decode = builders.told(model.flow_map, config), builders.decode_of(config)
    if not isinstance(yardstick, Yardstick):
        raise ValueError(
            f"yardstick is one of recipes.evaluation.reference; got a {type(yardstick).__name__}"
        )
    if not samplers:
        raise ValueError(
            "samplers is empty; name at least one, as in samplers.1_jump._target_=steer.samplers.Jump"
        )
    x0 = builders.noise(config, model.shape, len(prompts), model.dtype)
    rehearse(flow_map, x0, Measure(None, None, None, decode, prompts.cond))
    folder = run_directory.create(config)

    def run(name: str, sampler: Sampler) -> tuple[Result, Figures]:
        generator, start = (
            keyed_generator("evaluate", config.seed, device=x0.device),
            time.perf_counter(),
        )
        with bar(name, job.quiet):
            result = sampler(flow_map, x0, None, prompts.cond, generator)
        seconds = time.perf_counter() - start
        x = (
            result.x
            if decode is None
            else decode(result.x.flatten(0, 1)).unflatten(0, result.x.shape[:2])
        )
        labels = (
            prompts.cond.cpu()
            if config.condition.model and isinstance(prompts.cond, Tensor)
            else None
        )
        evaluations = {"network_forward": result.evaluations.network_forward, "seconds": seconds}
        return result, {**yardstick(x.cpu(), labels), **evaluations}

    with torch.no_grad():
        results = {name: run(name, sampler) for name, sampler in samplers.items()}
        floor = yardstick.floor(x0.shape[0] * x0.shape[1])
    metrics: Figures = {
        "method": "evaluate",
        "samples": x0.shape[0] * x0.shape[1],
        "samplers": {name: figures for name, (_, figures) in results.items()},
        "floor": floor,
    }
    gallery = Gallery(folder, model.shape, decode, prompts.titles)
    drawn = gallery.samples(
        {name.replace("_", " "): result for name, (result, _) in results.items()}
    )
    whose = config.model if isinstance(config.model, str) else "the map"
    claim_line = f"The samples of {whose}, held against data."
    title = f"Evaluation: {folder.name}"
    return publish(
        folder, job, metrics, title, claim_line, drawn, [table(metrics)], headline(metrics)
    )


def rows_of(metrics: Figures) -> dict[str, Figures]:
    """The figures of each sampler, and of data against data."""
    return {**metrics["samplers"], FLOOR: metrics["floor"]}


def headline(metrics: Figures) -> Headline:
    """The first figure of the yardstick, of all."""
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
