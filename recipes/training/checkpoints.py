"""What a training run leaves besides its report: weights that know how to be built again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from recipes.setup import run_directory
from recipes.setup.job import Job
from recipes.training.trainer import readable
from rewards import load_classifier, save_classifier
from rewards.networks import Classifier
from steer import checkpoint
from steer.flow_map import FlowMap, ResidualMap
from steer.loops import ClassifierTraining, MapTraining
from steer.loops.last_checkpoint import NAME as LAST
from steer.networks import WithContext, warm_start
from steer.training import Objective
from steer.tuning import without_lora


def learned(loop: Any) -> nn.Module:
    """What a loop learns. Raises ValueError for what we could not save, before hours are spent on
    it.
    """
    match loop:
        case (
            MapTraining(flow_map=FlowMap() as module)
            | ClassifierTraining(network=Classifier() as module)
        ):
            return module
        case ClassifierTraining(network=module):
            raise ValueError(
                f"network is one of rewards.networks, so that it can be saved; got {type(module).__name__}"
            )
    raise ValueError(
        f"loop is steer.loops.MapTraining or ClassifierTraining; got a {type(loop).__name__}"
    )


def guidance_of(loop: Any) -> float:
    """The weight of classifier-free guidance that the loop bakes into its map, 1 for none. Raises
    ValueError if no map of its kind can remember it.
    """
    if (
        not isinstance(loop, MapTraining)
        or not isinstance(loop.objective, Objective)
        or loop.objective.guidance == 1
    ):
        return 1.0
    if not isinstance(loop.flow_map, ResidualMap):
        raise ValueError(
            f"only a ResidualMap remembers the guidance of its teacher; got a {type(loop.flow_map).__name__}"
        )
    return loop.objective.guidance


def start_from(module: nn.Module, name: str) -> None:
    """Gives a map or a classifier the weights of another of the same build, be it of a run that
    never ended. Raises ValueError, naming what differs.
    """
    if (last := Path(name) / LAST).exists() and not list(Path(name).glob("*.safetensors")):
        saved = readable(last)
        refuse_other_guidance(module, saved.get("guidance", 1.0), name)
        take(module, averaged(saved), f"start={name}")
        return
    found: Any = load_classifier(name) if isinstance(module, Classifier) else checkpoint.load(name)
    found = without_lora(found)
    refuse_other_guidance(module, found.guidance if isinstance(found, FlowMap) else 1.0, name)
    if told := told_more(module, found):
        warm_start(*told)
    else:
        take(module, found.state_dict(), f"start={name}")


def refuse_other_guidance(module: nn.Module, guidance: float, name: str) -> None:
    """Raises ValueError if the weights hold guidance that the map to be trained does not know of."""
    if isinstance(module, FlowMap) and guidance != module.guidance:
        raise ValueError(
            f"start={name} has guidance of weight {guidance} in it; say model.guidance={guidance}"
        )


def told_more(module: nn.Module, found: nn.Module) -> tuple[WithContext, nn.Module] | None:
    """The networks of an inner map of a posterior map and of the outer map that it may start from,
    if that is what they are.
    """
    match module, found:
        case ResidualMap(network=WithContext() as network), ResidualMap(network=plain) if (
            not isinstance(plain, WithContext)
        ):
            return network, plain
    return None


def take(module: nn.Module, weights: Mapping[str, Tensor], whence: str) -> None:
    """Gives the module the weights. Raises ValueError, naming the first that does not fit."""
    if differs := checkpoint.difference(module.state_dict(), weights):
        raise ValueError(f"{whence} does not fit the model: {differs}; build it alike")
    module.load_state_dict(weights)


def averaged(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint to resume from, by their names in the map or the
    classifier.
    """
    weights = {**saved["state_dict"], **saved["callbacks"]["Ema"]["average"]}
    of = ("flow_map.", "network.")  # what `learned` finds in a loop
    prefix = next(prefix for prefix in of if any(name.startswith(prefix) for name in weights))
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def save(module: nn.Module, folder: Path, job: Job, steps: int, guidance: float = 1.0) -> None:
    """map.safetensors or classifier.safetensors, with its recipe, any guidance it learned, and
    where it comes from.
    """
    config, notes = job.config, {**origin(job, steps), "start": job.config.start}
    if isinstance(module, Classifier):
        save_classifier(folder / "classifier.safetensors", module, notes)
    else:
        recipe: Any = OmegaConf.to_container(config.model)
        if guidance != 1:
            recipe["guidance"] = guidance
        checkpoint.save(
            module, folder / "map.safetensors", recipe, shape=list(config.shape), **notes
        )


def origin(job: Job, steps: int) -> dict[str, Any]:
    """What a checkpoint should remember of its making."""
    return {
        "command": job.command,
        "steps": steps,
        "seed": job.config.seed,
        "versions": run_directory.versions(),
    }
