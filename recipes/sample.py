"""steer sample: samples steered by a reward, beside unsteered ones from the same noise."""

import time
import warnings
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from recipes.evaluation import collapse
from recipes.evaluation.closed_form import closed_form
from recipes.evaluation.metrics import Figures, of_population
from recipes.evaluation.price import figures, priced
from recipes.reporting import html, image_folders
from recipes.reporting.figures import gallery_of
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import comparison, cost, price_table
from recipes.setup import run_directory
from recipes.setup.builders import sampler_of
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from steer.samplers import Result, Sampler
from steer.tilt import Tilt

DIVERGED = 100.0  # times the reach of unsteered samples


def sample(job: Job) -> Path:
    """Runs the config and returns the run folder."""
    config = job.config
    experiment = experiment_of(config)
    sampler = sampler_of(config.sampler)
    base_sampler = sampler_of(config.base)
    if config.images is not None:
        image_folders.refuse_points(experiment.model.shape, config.images)
    folder = run_directory.create(config)

    measure = experiment.measure
    rewards = [reward for reward in (measure.reward, *measure.heldout) if reward is not None]
    gallery = gallery_of(experiment, folder)
    with priced(rewards) as prices:
        with run_directory.dropped_if_refused(folder):
            base, base_seconds = timed(experiment, base_sampler, None, "unsteered", job)
            steered, seconds = timed(experiment, sampler, experiment.tilt, "steered", job)
        warn_if_diverged(steered.x, base.x)
        steered = replace(steered, claim=steered.claim or sampler.claim)
        tensors = {"x": own(steered.x), "log_w": own(steered.log_w)}
        save_file(tensors, folder / "samples.safetensors")
        if config.images is not None:
            image_folders.write(gallery, steered, experiment.prompts, config.seed, config.images)
        of_steered, of_base = measure(steered), measure(base)

    exact = None if config.guidances else closed_form(experiment.model.flow_map, experiment.tilt)
    metrics: Figures = {
        "method": type(sampler).__name__,
        "claim": steered.claim or sampler.claim,
        "heldout_rewards": measure.heldout_names,
        **of_steered,
        **of_population(steered),
        "log_z_exact": None if exact is None else exact.log_z,
        "seconds": seconds,
        **{f"base_{name}": value for name, value in of_base.items()},
        "base_evaluations": of_population(base)["evaluations"],
        "base_seconds": base_seconds,
        **figures(prices),
        "warnings": collapse.signs_of_steering(of_base, of_steered),
    }
    truth = None if exact is None else exact.draws()
    drawn = [
        *gallery.samples({"unsteered": base, "steered": steered}, truth),
        *gallery.film(steered.trace, experiment.x0.device),
        *gallery.curves(steered.trace, config.particles, metrics["base_reward_mean"]),
    ]
    tables = [comparison(metrics, "unsteered", "steered"), cost(metrics)]
    tables += [price_table(metrics)] if prices else []
    title = f"{metrics['method']}: {folder.name}"
    claim_line = collapse.with_warnings(html.CLAIMS[metrics["claim"]], metrics)
    return publish(folder, job, metrics, title, claim_line, drawn, tables, headline(metrics))


def timed(
    experiment: Experiment, sampler: Sampler, tilt: Tilt | None, name: str, job: Job
) -> tuple[Result, float]:
    """The samples of one sampler and the seconds they took; `name` is the key of its randomness."""
    start = time.perf_counter()
    with bar(name, job.quiet):
        result = experiment.draw(sampler, tilt, name)
    return result, time.perf_counter() - start


def warn_if_diverged(steered: Tensor, unsteered: Tensor) -> None:
    """Warns of samples so far from the unsteered ones that the steering most likely diverged."""
    reach = float(steered.abs().max())
    usual = float(unsteered.abs().max())
    if reach > DIVERGED * max(usual, 1.0):  # noise, which both start from, reaches further than 1
        warnings.warn(
            f"steered samples reach {reach:.3g}, unsteered ones {usual:.3g}: unless the reward asks"
            " for that, the steering has diverged; lower tilt.scale, or take more steps",
            stacklevel=2,
        )


def own(x: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with no other tensor, as safetensors requires."""
    return x.detach().cpu().contiguous().clone()


def headline(metrics: Figures) -> Headline:
    """The figures at the head of the report."""
    return [
        ("reward, steered", metrics["reward_mean"]),
        ("reward, unsteered", metrics["base_reward_mean"]),
        ("judge's accuracy, steered", metrics["judge_accuracy"]),
        *(
            (words, metrics[name])
            for name, words in (("log_z", "log Z"), ("log_z_exact", "log Z, closed form"))
            if metrics["log_z"] is not None and metrics[name] is not None
        ),
    ]
