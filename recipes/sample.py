"""steer sample: noise -> samples that a reward has steered, beside unsteered ones from the same noise."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from recipes import parts, report, run_folder
from recipes.closed_form import ClosedForm, closed_form
from recipes.drawing import Gallery, Picture
from recipes.measure import Figures, Measure, of_population
from recipes.progress import bar
from recipes.tables import comparison, cost
from steer.data.stream import keyed_generator
from steer.samplers import Result, Sampler


def sample(config: DictConfig, command: str, quiet: bool = False) -> Path:
    """Runs the config and returns the run folder."""
    model, prompts, tilt = parts.model_of(config), parts.prompts_of(config), parts.tilt_of(config)
    heldout, judge = parts.reward_of(config.heldout, config), parts.judge_of(config)
    sampler, base_sampler = parts.sampler_of(config.sampler), parts.sampler_of(config.base)
    flow_map, x0 = parts.told(model.flow_map, config), parts.noise(config, model.shape, len(prompts), model.dtype)
    reward = None if tilt is None else tilt.reward
    parts.rehearse(flow_map, x0, prompts.cond, reward, heldout)
    folder = run_folder.create(config)

    def run(sampler: Sampler, tilt: Any, name: str) -> tuple[Result, float]:
        generator, start = keyed_generator(name, config.seed, device=x0.device), time.perf_counter()
        with bar(name, quiet):
            result = sampler(flow_map, x0, tilt, prompts.cond, generator)
        return result, time.perf_counter() - start

    base, base_seconds = run(base_sampler, None, "unsteered")
    steered, seconds = run(sampler, tilt, "steered")

    measure = Measure(reward, heldout, judge, parts.decode_of(config), prompts.cond)
    exact = closed_form(model.flow_map, tilt)
    metrics: Figures = {
        "method": type(sampler).__name__,
        "claim": sampler.claim,
        **measure(steered),
        **{f"base_{name}": value for name, value in measure(base).items()},
        **of_population(steered),
        "log_z_exact": None if exact is None else exact.log_z,
        "base_evaluations": of_population(base)["evaluations"],
        "seconds": seconds,
        "base_seconds": base_seconds,
        "seed": config.seed,
        "versions": run_folder.versions(),
    }
    run_folder.write_metrics(folder, metrics)
    save_file({"x": own(steered.x), "log_w": own(steered.log_w)}, folder / "samples.safetensors")
    gallery = Gallery(folder, model.shape, parts.decode_of(config), prompts.titles)
    drawn = draw(gallery, base, steered, exact, metrics)
    write_report(folder, config, command, metrics, drawn)
    return folder


def own(x: Tensor) -> Tensor:
    """A tensor that shares its memory with none, as safetensors wants it."""
    return x.detach().cpu().contiguous().clone()


def draw(gallery: Gallery, base: Result, steered: Result, exact: ClosedForm | None, metrics: Figures) -> list[Picture]:
    """grid.png, filmstrip.png and curves.png, as far as there is something to see."""
    truth = None if exact is None else exact.law.sample(20_000, keyed_generator("truth", device=base.x.device))
    reward = metrics["base_reward_mean"]
    return [
        *gallery.samples({"unsteered": base, "steered": steered}, truth),
        *gallery.film(steered.trace),
        *gallery.curves(steered.trace, base.x.shape[1], None if reward != reward else reward),
    ]


def write_report(folder: Path, config: DictConfig, command: str, metrics: Figures, drawn: list[Picture]) -> None:
    """report.html."""
    headline = [
        ("reward, steered", metrics["reward_mean"]),
        ("reward, unsteered", metrics["base_reward_mean"]),
        ("judge's accuracy", metrics["judge_accuracy"]),
        ("log Z", metrics["log_z"]),
        ("log Z, closed form", metrics["log_z_exact"]),
    ]
    report.write(
        folder / "report.html",
        title=f"{metrics['method']} on {folder.name}",
        claim_line=report.CLAIMS[metrics["claim"]],
        pictures=drawn,
        tables=[comparison(metrics, "unsteered", "steered"), cost(metrics)],
        config_text=OmegaConf.to_yaml(config),
        notes=[command, *(f"{name} {version}" for name, version in metrics["versions"].items() if version)],
        headline=[(what, figure) for what, figure in headline if figure is not None and figure == figure],
    )
