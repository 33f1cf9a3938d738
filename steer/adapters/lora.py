"""Low-rank adapters on the transformer of a real model, by peft, in the library's own format.

Reference: Hu et al. 2022, arXiv 2106.09685.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from steer.adapters.backbone import Backbone
from steer.adapters.library import needed
from steer.annotations import Count, Positive
from steer.flow_map import FlowMap

__all__ = ["add_lora", "load_lora", "save_lora"]

FILE = "pytorch_lora_weights.safetensors"


def add_lora(
    flow_map: FlowMap,
    rank: Count = 8,
    alpha: Positive | None = None,
    targets: Sequence[str] | None = None,
) -> Backbone:
    """Freezes a real model and puts trainable rank-r updates on its transformer, in place.

    The updates are in float32, whatever the precision of the transformer.

    Args:
        flow_map: the model, as from `steer.adapters.from_pretrained`.
        rank: r.
        alpha: the update is scaled by alpha / r; alpha = r by default.
        targets: ends of the names of the layers; the attention's projections by default.

    Raises:
        ValueError: another map, one that has adapters, or no layer of these names.
    """
    own = backbone(flow_map)
    transformer = own.network.transformer
    if has_lora(own):
        raise ValueError("the model has adapters already; load it anew")
    ends = tuple(f".{end}" for end in targets or own.network.lora_targets)
    names = [name for name, _ in transformer.named_modules()]
    if not any(f".{name}".endswith(ends) for name in names):
        raise ValueError(
            f"LoRA finds no layer of the {type(transformer).__name__} whose name ends in"
            f" {', '.join(end[1:] for end in ends)}; give targets that some end in, as {names[-1]}"
        )
    own.requires_grad_(False)
    config = needed("peft").LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=[end[1:] for end in ends],
    )
    transformer.add_adapter(config)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    return own


def save_lora(flow_map: FlowMap, folder: str | Path) -> Path:
    """Writes the adapters of a model so that the library's `load_lora_weights` takes the folder.

    The file's header says what model they belong to, see `with_header`.

    Args:
        flow_map: a model with adapters.
        folder: made if it is not there.

    Returns:
        The file in it.

    Raises:
        ValueError: a model without adapters.
    """
    own = backbone(flow_map)
    if not has_lora(own):
        raise ValueError("the model has no adapters to save; put some on by add_lora")
    network = own.network
    transformer = network.transformer
    loader = getattr(needed("diffusers"), network.pipeline_name())
    if not hasattr(loader, "save_lora_weights"):  # only the transformer loads them again
        transformer.save_lora_adapter(str(folder), weight_name=FILE)
        return with_header(Path(folder) / FILE, own)
    layers: Any = needed("peft.utils").get_peft_model_state_dict(transformer)
    if network.part == "unet":
        layers = needed("diffusers.utils").convert_state_dict_to_diffusers(layers)
    about = transformer.peft_config["default"].to_dict()
    part = network.part
    loader.save_lora_weights(
        str(folder),
        **{f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": about},
    )
    return with_header(Path(folder) / FILE, own)


def with_header(path: Path, own: Backbone) -> Path:
    """Adds to the library's metadata of a file what model its adapters belong to, and writes it.

    Under the key "steer", as JSON: family, level and class of the model, the name or folder that
    it was loaded from (null for modules), rank and alpha.
    """
    network = own.network
    settings = network.transformer.peft_config["default"]
    header = {
        "kind": "adapters",
        "family": network.name,
        "level": network.level,
        "class": type(network.transformer).__name__,
        "base": network.source,
        "rank": settings.r,
        "alpha": settings.lora_alpha,
    }
    with safe_open(str(path), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {**(file.metadata() or {}), "format": "pt", "steer": json.dumps(header)}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, str(scratch), metadata)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def header_of(folder: str | Path) -> dict[str, Any]:
    """Reads what `with_header` wrote; empty for adapters of others, or of the hub."""
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    try:
        with safe_open(str(path), "pt") as file:
            return json.loads((file.metadata() or {}).get("steer", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); copy it again") from (
            error
        )


def load_lora(flow_map: FlowMap, folder: str | Path) -> Backbone:
    """Puts the adapters of a folder on a model, in place, frozen.

    Args:
        flow_map: a model without adapters.
        folder: of adapters in the library's format, or a name on the hub.

    Raises:
        ValueError: there are none, or they are of another model.
    """
    own = backbone(flow_map)
    network = own.network
    if has_lora(own):
        raise ValueError("the model has adapters already; load it anew")
    about = header_of(folder)
    if about.get("family", network.name) != network.name:
        base = f", {about['base']}" if about.get("base") else ""
        raise ValueError(
            f"{folder} holds adapters of {about['family']}{base}; this model is {network.name}:"
            " give those of it"
        )
    prefixed = hasattr(getattr(needed("diffusers"), network.pipeline_name()), "save_lora_weights")
    try:
        network.transformer.load_lora_adapter(
            str(folder), prefix=network.part if prefixed else None, weight_name=FILE
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder} holds no adapters of this model: {reason}") from error
    if not has_lora(own):
        raise ValueError(f"{folder} holds no adapters of this model; give those of {network.name}")
    own.requires_grad_(False)
    return own


def backbone(flow_map: FlowMap) -> Backbone:
    """The map itself. Raises ValueError unless it is a real model."""
    if not isinstance(flow_map, Backbone):
        raise ValueError(
            f"adapters by peft go on a real model, of steer.adapters; got a"
            f" {type(flow_map).__name__}: use steer.tuning.add_lora"
        )
    return flow_map


def has_lora(flow_map: Backbone) -> bool:
    """Whether a model has adapters."""
    return bool(getattr(flow_map.network.transformer, "peft_config", None))
