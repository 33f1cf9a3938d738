"""What a training run leaves besides its report: weights that know how to be built again."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from recipes import run_folder
from recipes.job import Job
from rewards import load_classifier, save_classifier
from rewards.networks import Classifier
from steer import checkpoint
from steer.flow_map import FlowMap, ResidualMap
from steer.loops import ClassifierTraining, MapTraining
from steer.training import Objective


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


def guidance_of(loop: Any) -> float:
    """The weight of classifier-free guidance that the loop bakes into its map, 1 for none. Raises ValueError if no map of
    its kind can remember it.
    """
    if not isinstance(loop, MapTraining) or not isinstance(loop.objective, Objective) or loop.objective.guidance == 1:
        return 1.0
    if not isinstance(loop.flow_map, ResidualMap):
        raise ValueError(
            f"only a ResidualMap remembers the guidance of its teacher; got a {type(loop.flow_map).__name__}"
        )
    return loop.objective.guidance


def start_from(module: nn.Module, name: str) -> None:
    """Gives a map or a classifier the weights of another of the same build. Raises ValueError, naming what differs."""
    found: Any = load_classifier(name) if isinstance(module, Classifier) else checkpoint.load(name)
    if isinstance(found, FlowMap) and isinstance(module, FlowMap) and found.guidance != module.guidance:
        raise ValueError(
            f"start={name} has guidance of weight {found.guidance} in it; say model.guidance={found.guidance}"
        )
    if differs := checkpoint.difference(module.state_dict(), found.state_dict()):
        raise ValueError(f"start={name} does not fit the model: {differs}; build it alike")
    module.load_state_dict(found.state_dict())


def save(module: nn.Module, folder: Path, job: Job, guidance: float = 1.0) -> None:
    """map.safetensors or classifier.safetensors, with its recipe, any guidance it learned, and where it comes from."""
    config, notes = job.config, {**origin(job), "start": job.config.start}
    if isinstance(module, Classifier):
        save_classifier(folder / "classifier.safetensors", module, notes)
    else:
        recipe: Any = OmegaConf.to_container(config.model)
        if guidance != 1:
            recipe["guidance"] = guidance
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
