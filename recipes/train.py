"""steer train: data -> a flow map, or a classifier, with its averaged weights in one safetensors file."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from recipes import parts, pictures, report, run_folder
from recipes.drawing import Gallery, Picture
from recipes.fit import LOG, fit
from recipes.measure import Figures
from recipes.progress import bar
from recipes.tables import Table
from rewards import save_classifier
from rewards.networks import Classifier
from steer import checkpoint
from steer.data.stream import keyed_generator
from steer.loops import ClassifierTraining, Ema, Loop, MapTraining, Pictures, read_csv_log
from steer.samplers import Result


def train(config: DictConfig, command: str, quiet: bool = False) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    torch.manual_seed(config.seed)  # initial weights
    loop, data, ema = parts.make(config.loop), parts.make(config.data), parts.make(config.ema)
    refuse_unsaveable(loop)
    folder = run_folder.resume(config) if config.run.resume else run_folder.create(config)
    callbacks = [] if config.pictures is None else [drawing_while_training(config, folder, ema)]
    seconds = fit(loop, data, config, folder, ema, callbacks, quiet)

    metrics = figures(loop, config, folder, seconds)
    save(loop, folder, config, {name: metrics[name] for name in ("steps", "seed", "versions")} | {"command": command})
    run_folder.write_metrics(folder, metrics)
    write_report(folder, config, command, metrics, [*samples(loop, callbacks, config, folder, quiet), *curves(folder)])
    return folder


def refuse_unsaveable(loop: Any) -> None:
    """Raises ValueError, before hours are spent, for a loop whose product we could not save."""
    match loop:
        case MapTraining() | ClassifierTraining(network=Classifier()):
            return
        case ClassifierTraining(network=network):
            raise ValueError(f"network is one of rewards.networks, so that it can be saved; got {type(network).__name__}")
    raise ValueError(f"loop is steer.loops.MapTraining or ClassifierTraining; got a {type(loop).__name__}")


def save(loop: Any, folder: Path, config: DictConfig, notes: dict[str, Any]) -> None:
    """map.safetensors or classifier.safetensors, with how to build it again."""
    match loop:
        case MapTraining(flow_map=flow_map):
            recipe = OmegaConf.to_container(config.model)
            checkpoint.save(flow_map, folder / "map.safetensors", recipe, shape=list(config.shape), **notes)  # type: ignore[arg-type]
        case ClassifierTraining(network=network):
            save_classifier(folder / "classifier.safetensors", network, notes)


def drawing_while_training(config: DictConfig, folder: Path, ema: Ema) -> Pictures:
    """config.pictures: samples from the same noise as the map learns."""
    prompts = parts.prompts_of(config)
    x0 = parts.noise(config, config.shape, len(prompts)).flatten(0, 1)
    cond = None if prompts.cond is None else prompts.cond.repeat_interleave(config.particles, dim=0)
    return parts.make(config.pictures, x0=x0, cond=cond, folder=folder / "pictures", ema=ema)


def samples(loop: Any, callbacks: list[Any], config: DictConfig, folder: Path, quiet: bool) -> list[Picture]:
    """grid.png: what the finished map makes, by each sampler that drew while it learned."""
    prompts, panels = parts.prompts_of(config), {}
    for callback in callbacks:
        x0 = parts.noise(config, config.shape, len(prompts)).to(loop.device)
        for name, sampler in callback.samplers.items():
            with bar(name, quiet):
                panels[name] = draw(sampler, loop.flow_map.eval(), x0, prompts)
    gallery = Gallery(folder, tuple(config.shape), parts.decode_of(config), prompts.titles)
    return gallery.samples(panels) if panels else []


def draw(sampler: Any, flow_map: Any, x0: torch.Tensor, prompts: parts.Prompts) -> Result:
    """Samples of the finished map."""
    return sampler(flow_map, x0, None, prompts.cond, keyed_generator("pictures", device=x0.device))


def curves(folder: Path) -> list[Picture]:
    """curves.png: everything that was logged."""
    if not (folder / LOG).exists():
        return []
    path = folder / "curves.png"
    pictures.training_curves(path, read_csv_log(folder / LOG))
    return [("What was logged, against the step: as it was, and smoothed.", path)]


def figures(loop: Loop, config: DictConfig, folder: Path, seconds: float) -> Figures:
    """metrics.json of a training run; what was logged is averaged over the last tenth of its course."""
    logged = read_csv_log(folder / LOG) if (folder / LOG).exists() else {}
    return {
        "method": type(loop).__name__,
        "steps": int(config.trainer.max_steps),
        "parameters": sum(p.numel() for p in loop.parameters() if p.requires_grad),
        "logged": {name: tail(list(curve.values())) for name, curve in logged.items()},
        "seconds": seconds,
        "seed": config.seed,
        "versions": run_folder.versions(),
    }


def tail(values: list[float]) -> float:
    """The mean of the last tenth."""
    last = values[-max(len(values) // 10, 1) :]
    return sum(last) / len(last)


def write_report(folder: Path, config: DictConfig, command: str, metrics: Figures, drawn: list[Picture]) -> None:
    """report.html."""
    rows = [["", "value"], *([name, report.number(value)] for name, value in metrics["logged"].items())]
    logged: Table = ("What was logged, averaged over the last tenth of the run.", rows)
    report.write(
        folder / "report.html",
        title=f"Training: {folder.name}",
        claim_line=f"{metrics['method']} for {metrics['steps']:,} steps; the weights saved are their moving average.",
        pictures=drawn,
        tables=[logged],
        config_text=OmegaConf.to_yaml(config),
        notes=[command, *(f"{name} {version}" for name, version in metrics["versions"].items() if version)],
        headline=[("steps", metrics["steps"]), ("parameters", metrics["parameters"]), ("seconds", metrics["seconds"])],
    )
