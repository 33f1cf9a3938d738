"""steer train: a map, a classifier or a CLIP, learned from data; its averaged weights are kept."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from omegaconf import DictConfig
from torch import nn

from recipes.evaluation.metrics import Figures
from recipes.reporting.figures import Gallery, Picture
from recipes.reporting.publish import publish
from recipes.reporting.tables import logged_table
from recipes.setup import builders, run_directory
from recipes.setup.dry_run import attempt, check_decode
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.training.checkpoints import guidance_of, learned, refuse_unloadable, save, start_from
from recipes.training.trainer import LOG, check_trainer, fit
from steer import plots as pictures
from steer.conditions import for_particles, pick, to
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap, ResidualMap
from steer.loops import Diverged, Ema, Identities, MapTraining, Pictures, read_csv_log
from steer.samplers import Result
from steer.training import Joint, OnGrid, ToData


def train(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = job.config
    torch.manual_seed(config.seed)  # initial weights
    loop = builders.made_as(LightningModule, config.loop)
    ema = builders.made_as(Ema, config.ema)
    data = builders.made_as(LightningDataModule, config.data)
    module = learned(loop)
    guidance = guidance_of(loop)
    refuse_unloadable(module, config)
    if config.start is not None and not config.run.resume:
        with builders.at("start"):
            start_from(module, config.start)
    check_trainer(config)
    check_shape(config, module)
    with builders.at("data"):
        data.prepare_data()
    folder = run_directory.opened_for(config)
    show = [] if config.pictures is None else [pictures_of(config, folder, ema)]
    watch = [Identities(config.identities, ema=ema)] if watched(loop) and config.identities else []
    try:
        fitted = fit(loop, data, folder, job, ema, [*watch, *show])
    except Diverged as error:
        raise ValueError(
            f"{error}{'' if error.kept is None else f'; start={folder} begins with them'}"
        ) from error
    save(module, folder, job, fitted.steps, guidance)

    metrics: Figures = {
        "method": type(loop).__name__,
        "steps": fitted.steps,
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "logged": logged(folder),
        "seconds": fitted.seconds,
    }
    headline = [(name, metrics[name]) for name in ("steps", "parameters", "seconds")]
    steps = f"{metrics['method']}, {metrics['steps']:,} steps."
    claim_line = f"{steps} The weights kept are their moving average."
    drawn = [*samples(module, show, job, folder), *curves(folder)]
    return publish(
        folder,
        job,
        metrics,
        f"Training: {folder.name}",
        claim_line,
        drawn,
        [logged_table(metrics)],
        headline,
    )


def watched(loop: Any) -> bool:
    """Whether the loop learns jumps between any two times, whose identities can be checked.

    False for a velocity alone, jumps to data alone, one jump alone, and an inner map.
    """
    match loop:
        case MapTraining(flow_map=ResidualMap(), objective=Joint() as joint):
            one_jump = isinstance(joint.pairs, OnGrid) and joint.pairs.n == 1
            to_data = isinstance(joint.pairs, ToData)
            return joint.off_diagonal is not None and not one_jump and not to_data
    return False


def check_shape(config: DictConfig, module: nn.Module) -> None:
    """Raises ValueError for a map that does not take samples of config.shape."""
    if config.pictures is None or not isinstance(module, FlowMap):
        return
    cond = to(pick(builders.prompts_of(config).cond, slice(1)), "cpu")
    x = torch.zeros(1, *config.shape)
    what = "model, or the shape given: the map"
    attempt(what, tuple(config.shape), lambda: module.velocity(x, 0.0, cond))


def pictures_of(config: DictConfig, folder: Path, ema: Ema) -> Pictures:
    """config.pictures: a callback that draws samples from the same noise during training."""
    prompts = builders.prompts_of(config)
    x0 = builders.noise(config, config.shape, len(prompts)).flatten(0, 1)
    check_decode(builders.decode_of(config), x0[:1])
    cond = for_particles(prompts.cond, config.particles)
    return builders.made_as(
        Pictures, config.pictures, x0=x0, cond=cond, folder=folder / "pictures", ema=ema
    )


def samples(module: Any, show: list[Pictures], job: Job, folder: Path) -> list[Picture]:
    """grid.png: samples of the trained map, by each sampler of config.pictures."""
    config = job.config
    panels = {name: sampler for each in show for name, sampler in each.samplers.items()}
    if not panels:
        return []
    prompts = builders.prompts_of(config)
    x0 = builders.noise(config, config.shape, len(prompts))

    def drawn(name: str, sampler: Any, flow_map: nn.Module) -> Result:
        with bar(name, job.quiet):
            return sampler(
                flow_map, x0, None, prompts.cond, keyed_generator("pictures", device=x0.device)
            )

    flow_map = module.to(x0.device).eval()
    results = {
        name.replace("_", " "): drawn(name, sampler, flow_map) for name, sampler in panels.items()
    }
    return Gallery(folder, tuple(config.shape), builders.decode_of(config), prompts.titles).samples(
        results
    )


def logged(folder: Path) -> dict[str, float]:
    """Every logged quantity, averaged over the last tenth of its values."""
    curves = read_csv_log(folder / LOG) if (folder / LOG).exists() else {}
    tails = {
        name: list(curve.values())[-max(len(curve) // 10, 1) :] for name, curve in curves.items()
    }
    return {name: sum(tail) / len(tail) for name, tail in tails.items()}


def curves(folder: Path) -> list[Picture]:
    """curves.png: every logged quantity against the step."""
    if not (folder / LOG).exists():
        return []
    path = folder / "curves.png"
    pictures.training_curves(path, read_csv_log(folder / LOG))
    return [("Logged quantities against the step: raw, and smoothed.", path)]
