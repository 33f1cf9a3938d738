"""The weights that a training run starts from and ends with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from recipes.setup import run_directory
from recipes.setup.job import Job
from recipes.training.trainer import readable
from rewards import load_classifier, load_clip, save_classifier, save_clip
from rewards.checkpoint import refuse_unloadable as unloadable_network
from rewards.networks import Classifier
from rewards.small_clip import SmallClip
from steer import checkpoint
from steer.flow_map import FlowMap, ResidualMap
from steer.loops import ClassifierTraining, ContrastiveTraining, MapTraining
from steer.loops.last_checkpoint import NAME as LAST
from steer.networks import ByCondition, InferredClass, WithContext, warm_start
from steer.training import Objective
from steer.tuning import without_lora


def learned(loop: Any) -> nn.Module:
    """The module that a loop trains. Raises ValueError for one that cannot be saved."""
    match loop:
        case (
            MapTraining(flow_map=FlowMap() as module)
            | ClassifierTraining(network=Classifier() as module)
            | ContrastiveTraining(network=SmallClip() as module)
        ):
            return module
        case ClassifierTraining(network=module):
            raise ValueError(
                "network is one of rewards.networks, so that it can be saved; got"
                f" {type(module).__name__}"
            )
        case ContrastiveTraining(network=module):
            raise ValueError(
                "network is a rewards.small_clip.SmallClip, so that it can be saved; got"
                f" {type(module).__name__}"
            )
    raise ValueError(
        "loop is steer.loops.MapTraining, ClassifierTraining or ContrastiveTraining; got a"
        f" {type(loop).__name__}"
    )


def guidance_of(loop: Any) -> float:
    """The weight of classifier-free guidance that the loop distils into its map, 1 for none.

    Raises ValueError if a map of its kind cannot record it.
    """
    if not isinstance(loop, MapTraining) or not isinstance(loop.objective, Objective):
        return 1.0
    if loop.objective.guidance == 1:
        return 1.0
    if not isinstance(loop.flow_map, ResidualMap):
        raise ValueError(
            "only a ResidualMap records the guidance of its teacher; got a"
            f" {type(loop.flow_map).__name__}"
        )
    return loop.objective.guidance


def refuse_unloadable(module: nn.Module, config: DictConfig) -> None:
    """Raises ValueError for a module that could be saved and not be loaded again; names its key."""
    if isinstance(module, Classifier | SmallClip):
        unloadable_network(module, "model._target_")
    else:
        checkpoint.refuse_unloadable(OmegaConf.to_container(config.model), "model")


def start_from(module: nn.Module, name: str) -> None:
    """Loads the weights of another map, classifier or CLIP of the same build into a module.

    Args:
        module: a map, a classifier or a small CLIP.
        name: a shipped name, a file or a run folder, that of an unfinished run included.

    Raises:
        ValueError: weights of another build; names the first difference.
    """
    last = Path(name) / LAST
    unfinished = last.exists() and not list(Path(name).glob("*.safetensors"))
    if unfinished:
        saved = readable(last)
        refuse_other_guidance(module, saved.get("guidance", 1.0), name)
        load_into(module, averaged(saved), f"start={name}")
        return
    found: Any = part_for(module, without_lora(loaded_like(module, name)))
    refuse_other_guidance(module, found.guidance if isinstance(found, FlowMap) else 1.0, name)
    if networks := conditioned_and_plain(module, found):
        warm_start(*networks)
    elif (inner := inner_network(module, found)) is not None:
        load_into(inner, found.network.state_dict(), f"start={name}")
    else:
        load_into(module, found.state_dict(), f"start={name}")


def loaded_like(module: nn.Module, name: str) -> Any:
    """Loads a map, a classifier or a CLIP, whichever the module is."""
    match module:
        case Classifier():
            return load_classifier(name)
        case SmallClip():
            return load_clip(name)
    return checkpoint.load(name)


def refuse_other_guidance(module: nn.Module, guidance: float, name: str) -> None:
    """Raises ValueError if the weights were distilled with other guidance than the map records."""
    if isinstance(module, FlowMap) and guidance != module.guidance:
        raise ValueError(
            f"start={name} was distilled with guidance of weight {guidance}; set"
            f" model.guidance={guidance}"
        )


def conditioned_and_plain(
    module: nn.Module, found: nn.Module
) -> tuple[WithContext, nn.Module] | None:
    """The networks of a posterior map's inner map and of the outer map that it starts from.

    None for any other pair.
    """
    match module, found:
        case ResidualMap(network=WithContext() as network), ResidualMap(network=plain) if (
            not isinstance(plain, WithContext)
        ):
            return network, plain
    return None


def part_for(module: nn.Module, found: nn.Module) -> nn.Module:
    """Takes the part of a `ByCondition` map that a map with one network starts from.

    The unconditional part for an `InferredClass`, else the conditional one.
    """
    match module, found:
        case ResidualMap(network=network), ResidualMap(network=ByCondition() as both) if (
            not isinstance(network, ByCondition)
        ):
            own = isinstance(network, InferredClass)
            part = both.unconditional if own else both.conditional
            return ResidualMap(part, found.schedule, found.guidance)
    return found


def inner_network(module: nn.Module, found: nn.Module) -> nn.Module | None:
    """The conditional network of an `InferredClass`, which a conditional map's weights start.

    None for any other pair.
    """
    match module, found:
        case ResidualMap(network=InferredClass(network=inner)), ResidualMap(network=other) if (
            not isinstance(other, InferredClass)
        ):
            return inner
    return None


def load_into(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads weights into the module. Raises ValueError at the first that does not fit."""
    if differs := checkpoint.difference(module.state_dict(), weights):
        raise ValueError(f"{source} does not fit the model: {differs}; build both alike")
    module.load_state_dict(weights)


def averaged(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint of Lightning, by their names in the module."""
    weights = {**saved["state_dict"], **saved["callbacks"]["Ema"]["average"]}
    attributes = ("flow_map.", "network.")  # the trained module of a loop, see `learned`
    prefix = next(p for p in attributes if any(name.startswith(p) for name in weights))
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def save(module: nn.Module, folder: Path, job: Job, steps: int, guidance: float = 1.0) -> None:
    """Writes {map,classifier,clip}.safetensors, with how it is built and was trained.

    Args:
        module: a map, a classifier or a small CLIP.
        folder: the run folder.
        job: what was asked for.
        steps: optimizer steps taken.
        guidance: weight of the classifier-free guidance distilled into the map.
    """
    config = job.config
    notes = {**origin(job, steps), "start": job.config.start}
    if isinstance(module, Classifier):
        save_classifier(folder / "classifier.safetensors", module, notes)
    elif isinstance(module, SmallClip):
        save_clip(folder / "clip.safetensors", module, notes)
    else:
        recipe: Any = OmegaConf.to_container(config.model)
        if guidance != 1:
            recipe["guidance"] = guidance
        checkpoint.save(
            module, folder / "map.safetensors", recipe, shape=list(config.shape), **notes
        )


def origin(job: Job, steps: int) -> dict[str, Any]:
    """How a checkpoint was made: command, steps, seed and versions."""
    return {
        "command": job.command,
        "steps": steps,
        "seed": job.config.seed,
        "versions": run_directory.versions(),
    }
