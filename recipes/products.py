"""What a training run leaves besides its report: weights that know how to be built again."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from recipes import run_folder
from recipes.job import Job
from rewards import save_classifier
from rewards.networks import Classifier
from steer import checkpoint
from steer.flow_map import FlowMap
from steer.loops import ClassifierTraining, MapTraining


def learned(loop: Any) -> nn.Module:
    """What a loop learns. Raises ValueError for what we could not save, before hours are spent on it."""
    match loop:
        case MapTraining(flow_map=FlowMap() as module) | ClassifierTraining(network=Classifier() as module):
            return module
        case ClassifierTraining(network=module):
            raise ValueError(
                f"network is one of rewards.networks, so that it can be saved; got {type(module).__name__}"
            )
    raise ValueError(f"loop is steer.loops.MapTraining or ClassifierTraining; got a {type(loop).__name__}")


def save(module: nn.Module, folder: Path, job: Job) -> None:
    """map.safetensors or classifier.safetensors, with its recipe and where it comes from."""
    config, notes = job.config, origin(job)
    if isinstance(module, Classifier):
        save_classifier(folder / "classifier.safetensors", module, notes)
    else:
        recipe: Any = OmegaConf.to_container(config.model)
        checkpoint.save(module, folder / "map.safetensors", recipe, shape=list(config.shape), **notes)


def origin(job: Job) -> dict[str, Any]:
    """What a checkpoint should remember of its making."""
    trainer = job.config.trainer
    return {
        "command": job.command,
        "steps": int(trainer.max_steps),
        "seed": job.config.seed,
        "versions": run_folder.versions(),
    }
