"""steer sample: noise -> samples that a reward has steered, beside unsteered ones from the same
noise.
"""

import time
import warnings
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from recipes.evaluation.closed_form import closed_form
from recipes.evaluation.metrics import Figures, Measure, of_population
from recipes.reporting import html
from recipes.reporting.figures import Gallery
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import comparison, cost
from recipes.setup import builders, run_directory
from recipes.setup.dry_run import rehearse
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from steer.data.stream import keyed_generator
from steer.samplers import Result, Sampler
from steer.tilt import Tilt

FAR = 100.0  # times the reach of unsteered samples


def sample(job: Job) -> Path:
    """Runs the config and returns the run folder."""
    config = job.config
    model, prompts, decode = (
        builders.model_of(config),
        builders.prompts_of(config),
        builders.decode_of(config),
    )
    reward, heldout = (
        builders.reward_of(node, decode, config) for node in (config.reward, config.heldout)
    )
    tilt, judge = builders.tilt_of(reward, config), builders.judge_of(config)
    sampler, base_sampler = builders.sampler_of(config.sampler), builders.sampler_of(config.base)
    flow_map, x0 = (
        builders.told(model.flow_map, config),
        builders.noise(config, model.shape, len(prompts), model.dtype),
    )
    measure = Measure(
        reward, heldout, judge, decode, prompts.cond, config.tilt.on_nonfinite == "reject"
    )
    rehearse(flow_map, x0, measure)
    folder = run_directory.create(config)

    def run(sampler: Sampler, tilt: Tilt | None, name: str) -> tuple[Result, float]:
        generator, start = keyed_generator(name, config.seed, device=x0.device), time.perf_counter()
        with bar(name, job.quiet):
            result = sampler(flow_map, x0, tilt, prompts.cond, generator)
        return result, time.perf_counter() - start

    with run_directory.dropped_if_refused(folder):
        base, base_seconds = run(base_sampler, None, "unsteered")
        steered, seconds = run(sampler, tilt, "steered")
    warn_of_flight(steered.x, base.x)
    save_file({"x": own(steered.x), "log_w": own(steered.log_w)}, folder / "samples.safetensors")

    exact = None if config.guidances else closed_form(model.flow_map, tilt)
    metrics: Figures = {
        "method": type(sampler).__name__,
        "claim": steered.claim or sampler.claim,
        **measure(steered),
        **of_population(steered),
        "log_z_exact": None if exact is None else exact.log_z,
        "seconds": seconds,
        **{f"base_{name}": value for name, value in measure(base).items()},
        "base_evaluations": of_population(base)["evaluations"],
        "base_seconds": base_seconds,
    }
    gallery = Gallery(folder, model.shape, decode, prompts.titles)
    drawn = [
        *gallery.samples(
            {"unsteered": base, "steered": steered}, None if exact is None else exact.draws()
        ),
        *gallery.film(steered.trace, x0.device),
        *gallery.curves(steered.trace, config.particles, metrics["base_reward_mean"]),
    ]
    tables = [comparison(metrics, "unsteered", "steered"), cost(metrics)]
    title, claim_line = f"{metrics['method']}: {folder.name}", html.CLAIMS[metrics["claim"]]
    return publish(folder, job, metrics, title, claim_line, drawn, tables, headline(metrics))


def warn_of_flight(steered: Tensor, unsteered: Tensor) -> None:
    """Warns of samples so far out that the steering has most likely blown up: finite, but no sample
    of anything.
    """
    reach, usual = float(steered.abs().max()), float(unsteered.abs().max())
    if reach > FAR * max(usual, 1.0):  # noise, which both start from, reaches further than 1
        warnings.warn(
            f"steered samples reach {reach:.3g}, and unsteered ones {usual:.3g}: if the reward does not ask for that, the"
            " steering has blown up; lower tilt.scale, or take more steps",
            stacklevel=2,
        )


def own(x: Tensor) -> Tensor:
    """A tensor that shares its memory with none, as safetensors wants it."""
    return x.detach().cpu().contiguous().clone()


def headline(metrics: Figures) -> Headline:
    """What to see first."""
    return [
        ("reward, steered", metrics["reward_mean"]),
        ("reward, unsteered", metrics["base_reward_mean"]),
        ("judge's accuracy, steered", metrics["judge_accuracy"]),
        ("log Z", metrics["log_z"]),
        ("log Z, closed form", metrics["log_z_exact"]),
    ]
