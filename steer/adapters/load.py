"""Real models by name, folder or from modules, as flow maps on latents."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import torch
from torch import nn

from steer.adapters.backbone import Backbone, backbone_of
from steer.adapters.library import needed
from steer.adapters.network import Network
from steer.annotations import Count
from steer.conditions import Cond
from steer.nearest import hint

__all__ = ["families", "from_modules", "from_pretrained"]

INDEX = "model_index.json"
MODULAR_INDEX = "modular_model_index.json"
BARE = "_bare"  # marks the config of a transformer alone
PARTS = ("transformer", "unet")  # what a pipeline calls its network
TEXTS = ("text_encoder", "tokenizer", "processor")  # how parts that encode prompts begin


def families() -> list[type[Network]]:
    """Lists the families of models that there are adapters for, by name."""
    return sorted(set(found_families()), key=lambda family: family.name)


def found_families() -> Iterator[type[Network]]:
    """Walks the files of this package for families."""
    for module in iter_modules([str(Path(__file__).parent)]):
        for value in vars(import_module(f"steer.adapters.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Network) and "name" in vars(value):
                yield value


def family_of(transformer: nn.Module, scheduler: Any = None) -> type[Network]:
    """Finds the family of a transformer, and of a scheduler where that decides.

    Raises:
        ValueError: there is none; names the nearest.
    """
    kind = type(transformer).__name__
    known = [family for family in families() if kind in family.transformers]
    if not known:
        raise ValueError(f"no adapter takes a {kind}; {hint(kind, class_names(), shown=20)}")
    for family in known:
        if family.suits(transformer, scheduler):
            return family
    wanted = " or ".join(scheduler for family in known for scheduler in family.schedulers)
    got = type(scheduler).__name__ if scheduler is not None else "none"
    raise ValueError(f"a {kind} has no family without its scheduler, a {wanted}; got {got}")


def class_names() -> set[str]:
    """The classes of transformers that there are adapters for."""
    return {name for family in families() for name in family.transformers}


def from_modules(
    transformer: nn.Module,
    vae: nn.Module | None = None,
    scheduler: Any = None,
    guidance: float | None = None,
    negative: Cond = None,
    distilled: bool = False,
    height: Count | None = None,
    width: Count | None = None,
    frames: Count | None = None,
    jump_steps: Count | None = None,
    max_batch: Count | None = None,
    decode_batch: Count | None = None,
    recompute: bool = False,
    offload: bool = False,
    **texts: Any,
) -> Backbone:
    """Wraps modules of diffusers, already loaded, as a flow map on latents.

    The modules are frozen and put in evaluation mode.

    Args:
        transformer: the network; its class, with that of the scheduler, decides the family.
        vae: the decoder; without one nothing can be decoded.
        scheduler: the library's, for the constants it holds.
        guidance: the weight of guidance: a second evaluation for classifier-free guidance, off by
            default; a number that the transformer embeds, with the family's own default.
        negative: the condition in place of no prompt, one entry; the empty text by default.
        distilled: whether guidance is baked in, of a model whose own config does not say so (FLUX.2
            Klein, Z-Image Turbo).
        height, width: of the images, in pixels, by which the map knows the shape of its samples.
        frames: of the films, for a model of films; 1, an image, by default.
        jump_steps: Euler steps of each jump, for a model of velocities; 1 by default.
        max_batch: the most samples in one call of the transformer.
        decode_batch: the most samples in one call of the decoder.
        recompute: gradient checkpointing of transformer and decoder.
        offload: whether text encoders and decoder wait on the CPU while they are not in use.
        texts: text encoders and tokenizers, by their names in the library's pipeline.

    Raises:
        ValueError: no adapter takes the transformer; guidance where it is baked in.
    """
    for name in texts:
        if not name.startswith(TEXTS):
            raise ValueError(
                f"from_modules takes transformer, vae, scheduler and what encodes texts; got {name}"
            )
    family = family_of(transformer, scheduler)
    network = family(
        transformer,
        vae,
        texts,
        scheduler,
        guidance=guidance,
        negative=negative,
        distilled=distilled,
        max_batch=max_batch,
        decode_batch=decode_batch,
        recompute=recompute,
        offload=offload,
    )
    flow_map = backbone_of(network, jump_steps)
    if (height is None) != (width is None):
        raise ValueError(f"an image has a height and a width; got {height} and {width}: give both")
    if height is not None and width is not None:
        film = {} if frames is None else {"frames": frames}
        flow_map.shape = flow_map.latent_shape(height, width, **film)
    return flow_map


def from_pretrained(
    name: str,
    dtype: str | None = None,
    text_encoders: bool = True,
    guidance: float | None = None,
    negative: Cond = None,
    distilled: bool | None = None,
    height: Count | None = None,
    width: Count | None = None,
    frames: Count | None = None,
    jump_steps: Count | None = None,
    max_batch: Count | None = None,
    decode_batch: Count | None = None,
    recompute: bool = False,
    offload: bool = False,
) -> Backbone:
    """Loads a model of diffusers as a flow map on latents.

    Args:
        name: a folder that `save_pretrained` wrote, of a pipeline or of a transformer alone, or a
            name on the hub.
        dtype: precision of the weights, "float32", "bfloat16" or "float16"; by default as
            diffusers loads them, in float32 whatever they are stored in.
        text_encoders: whether to load them too; without, conditions are given as embeddings.
        distilled: as in `from_modules`; what the model says of itself by default.
        guidance, negative, height, width, frames, jump_steps, max_batch, decode_batch, recompute,
            offload: as in `from_modules`.

    Raises:
        ValueError: there is no such model, or weights of it are missing, with the command that
            fetches them; or no adapter takes it.
    """
    modules = modules_of(name, precision(dtype), text_encoders)
    said = modules.pop("distilled")
    flow_map = from_modules(
        **modules,
        guidance=guidance,
        negative=negative,
        distilled=said if distilled is None else distilled,
        height=height,
        width=width,
        frames=frames,
        jump_steps=jump_steps,
        max_batch=max_batch,
        decode_batch=decode_batch,
        recompute=recompute,
        offload=offload,
    )
    flow_map.network.source = name
    return flow_map


def precision(name: str | None) -> torch.dtype | None:
    """The precision of that name. Raises ValueError for another."""
    known = {"float32", "float16", "bfloat16", "float64"}
    if name is not None and name not in known:
        raise ValueError(f"dtype is a precision; got {name!r}: {hint(name, known)}")
    return None if name is None else getattr(torch, name)


def modules_of(name: str, dtype: torch.dtype | None, text_encoders: bool) -> dict[str, Any]:
    """Loads the modules of a model, by the arguments of `from_modules`."""
    diffusers = needed("diffusers")
    options = {} if dtype is None else {"dtype": dtype}
    try:
        index = read_index(name)
        if BARE in index:
            kind = index["_class_name"]
            check_class(kind, name)
            loaded = getattr(diffusers, kind).from_pretrained(name, **options)
            return {"transformer": loaded, "distilled": False}
        part = next((part for part in PARTS if part in index), None)
        if part is None:
            raise ValueError(f"{name} has no transformer; its parts are {', '.join(index)}")
        check_class(str(class_of(index[part])), name)
        left = dict.fromkeys(left_out(index, text_encoders))
        loaded = components(diffusers, name, index, {**options, **left})
    except OSError as error:
        raise ValueError(not_loaded(name, str(error).splitlines()[0])) from error
    wanted = {
        k: v
        for k, v in loaded.items()
        if v is not None and (k in ("vae", "scheduler") or is_text(k))
    }
    if loaded.get("transformer_2") is not None:
        raise ValueError(f"{name} has two transformers, one for each part of time; none takes both")
    distilled = bool(index.get("is_distilled", False))
    return {"transformer": loaded[part], "distilled": distilled, **wanted}


def not_loaded(name: str, reason: str) -> str:
    """What is said of a model that cannot be loaded: which file to fetch by which command."""
    gone = re.search(r"no file named ([\w.-]+?),? .*?found in directory (\S+?)\.?$", reason)
    if gone is None or not Path(name).is_dir():
        return (
            f"{name} cannot be loaded ({reason}); give a folder with all its weights, as fetched by"
            f" `hf download {name} --local-dir FOLDER`"
        )
    file = Path(gone[2]) / gone[1].replace(".bin", ".safetensors")
    inside = file.relative_to(name) if file.is_relative_to(name) else file
    return (
        f"{name} cannot be loaded: {file} is missing; put it there, as by `hf download OWNER/NAME"
        f" {inside.as_posix()} --local-dir {name}`"
    )


def components(
    diffusers: Any, name: str, index: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Loads the parts of a pipeline, or those of a modular one that are used here."""
    if "_blocks_class_name" not in index:
        return diffusers.DiffusionPipeline.from_pretrained(name, **options).components
    pipeline = diffusers.ModularPipeline.from_pretrained(name)
    used = [k for k in index if k in (*PARTS, "vae", "scheduler") or is_text(k)]
    precision = {k: v for k, v in options.items() if k == "dtype"}
    pipeline.load_components([k for k in used if k not in options], **precision)
    return dict(pipeline.components)


def is_text(part: str) -> bool:
    """Whether a part of a pipeline encodes prompts."""
    return part.startswith(TEXTS)


def class_of(part: Any) -> str | None:
    """The class of a part of an index; None for a part that it has no weights of."""
    if len(part) > 2:  # of a modular pipeline
        about = part[2]
        return about["type_hint"][1] if about.get("pretrained_model_name_or_path") else part[1]
    return part[1]


def left_out(index: dict[str, Any], text_encoders: bool) -> list[str]:
    """The parts of an index that are not loaded: absent ones, and on request what encodes texts."""
    parts = {k: v for k, v in index.items() if isinstance(v, list) and not k.startswith("_")}
    absent = [name for name, part in parts.items() if class_of(part) is None]
    return absent + [name for name in parts if is_text(name) and not text_encoders]


def read_index(name: str) -> dict[str, Any]:
    """Reads the index of a pipeline, or the config of a transformer, in a folder or on the hub.

    Raises:
        ValueError: a folder without either.
        OSError: there is no such model.
    """
    folder = Path(name)
    if folder.is_dir():
        for file in (INDEX, MODULAR_INDEX, "config.json"):
            if (folder / file).is_file():
                return parsed(folder / file)
        raise ValueError(
            f"the folder {name} holds no {INDEX}, {MODULAR_INDEX} or config.json of diffusers; give"
            " what save_pretrained wrote"
        )
    hub = needed("huggingface_hub")
    for file in (INDEX, MODULAR_INDEX, "config.json"):
        try:
            found = hub.hf_hub_download(name, file)
        except hub.errors.LocalEntryNotFoundError as error:
            raise OSError("there is no such folder, and the hub cannot be reached") from error
        except hub.errors.EntryNotFoundError:
            continue
        except (ValueError, hub.errors.HfHubHTTPError) as error:
            raise OSError(
                f"no folder and no model on the hub: {str(error).splitlines()[0]}"
            ) from error
        return parsed(Path(found))
    raise OSError(f"it has none of {INDEX}, {MODULAR_INDEX} and config.json")


def parsed(file: Path) -> dict[str, Any]:
    """Reads an index or a config, marked if it is that of a transformer alone."""
    read = json.loads(file.read_text(encoding="utf-8"))
    return read if file.name in (INDEX, MODULAR_INDEX) else {**read, BARE: True}


def check_class(kind: str, name: str) -> None:
    """Raises ValueError for a class of transformers without an adapter, before it is loaded."""
    known = class_names()
    if kind not in known:
        raise ValueError(
            f"{name} is a {kind}, which no adapter takes; {hint(kind, known, shown=20)}"
        )
