"""Checkpoints: a safetensors file of weights whose JSON header describes the module to build.

Nothing is unpickled. The header's `build` is a nested `_target_` dictionary and may name classes of
this project only. Writing is atomic (a temporary file, then a rename): after a crash there is the
old file or the new one. Maps and, through `rewards.checkpoint`, classifiers share the format.

A file of low-rank adapters holds the adapters alone. Its header names the base map they were
trained on, its place and the SHA-256 of its weights; loading builds the base and adds the adapters.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from steer.build import below, build, target_of
from steer.flow_map import FlowMap

FORMAT = {"format": "steer", "version": 1}
# the maps, networks, paths and laws that a checkpoint may build: none of them opens a file, imports
# a name or asks a server, whatever its arguments
TRUSTED = (
    "steer.flow_map",
    "steer.maps",
    "steer.networks",
    "steer.interpolant",
    "steer.analytic",
    "steer.lookahead",
    "steer.tuning",
)
WEIGHTS = Path(__file__).parent / "weights"
# further packages that every load within `trusting` may build classes of
FURTHER: ContextVar[tuple[str, ...]] = ContextVar("trust", default=())
# header entries that describe one file, not its weights
NOT_OF_WEIGHTS = ("format", "version", "build", "lora", "base_sha256")


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Every load inside the `with` may build classes of these packages too, and run their code.

    Raises:
        ValueError: no list of packages.
    """
    if isinstance(packages, str):
        raise ValueError(f"trust is a list of packages; got {packages!r}: write [{packages!r}]")
    before = FURTHER.set((*FURTHER.get(), *packages))
    try:
        yield
    finally:
        FURTHER.reset(before)


def refuse_unloadable(recipe: Any, path: str, trusted: Sequence[str] = TRUSTED) -> None:
    """Raise ValueError at the first class of a recipe that no load of its checkpoint would build.

    Args:
        recipe: nested `_target_` dictionaries, as `save` takes them.
        path: its key in a config, for the error to name.
        trusted: the packages of the project that it may name.
    """
    if isinstance(recipe, (list, tuple)):
        for i, item in enumerate(recipe):
            refuse_unloadable(item, f"{path}[{i}]", trusted)
    if not isinstance(recipe, dict):
        return
    for key, value in recipe.items():
        refuse_unloadable(value, below(path, key), trusted)
    try:
        target_of(recipe, (*trusted, *FURTHER.get()), "")
    except ValueError as error:
        raise ValueError(unloadable(str(recipe["_target_"]), below(path, "_target_"))) from error


def unloadable(name: str, key: str) -> str:
    """What is said of a class whose weights could be saved and not be loaded again."""
    if ".py:" in name:
        own = Path(name.rpartition(".py:")[0]).stem
        way = f"name it as {own}.{name.rpartition(':')[2]}, importable, and add trust=[{own}]"
    else:
        way = f"add trust=[{name.partition('.')[0]}], to this run and to those that load it"
    return f"{key}: weights of {name} could be saved and not be loaded again: {way}"


def save(module: nn.Module, path: str | Path, recipe: dict[str, Any], **header: Any) -> None:
    """Write the weights of a module and the recipe that builds it.

    Args:
        module: what to save.
        path: a .safetensors file, written atomically.
        recipe: nested `_target_` dictionary that builds a module of the same shape.
        header: further entries, as JSON: schedule, data, steps, licence.
    """
    write(module.state_dict(), Path(path), {"build": recipe, **header})


def save_adapters(flow_map: nn.Module, path: str | Path, base: str | Path, **header: Any) -> None:
    """Write the low-rank adapters of a map, with the place and hash of its base.

    Args:
        flow_map: a map with adapters, as from `steer.tuning.add_lora`.
        path: a .safetensors file, written atomically.
        base: the map that was adapted, by name, folder or path, as in `load`.
        header: further entries, as in `save`.
    """
    from steer.tuning import lora

    path = Path(path)
    file = find(base)
    interpolates = getattr(flow_map, "interpolates", True)
    shipped_name = file.stem if file.parent == WEIGHTS else None
    about = {
        "build": read_header(file)["build"],
        "lora": lora.settings(flow_map),
        **({} if interpolates else {"interpolates": False}),
        "base": shipped_name or os.path.relpath(file.resolve(), path.parent.resolve()),
        "base_sha256": fingerprint(plain(file)),
    }
    write(lora.adapters(flow_map), path, {**header, **about})


def write(tensors: Mapping[str, Tensor], path: Path, header: dict[str, Any]) -> None:
    """Write tensors and a header, atomically; FORMAT overrides its entries in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "steer": json.dumps({**header, **FORMAT})}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, str(scratch), metadata)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_header(path: str | Path) -> dict[str, Any]:
    """Read the JSON header of a checkpoint.

    Raises:
        ValueError: the file is missing, damaged, or no checkpoint of this format and version.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no checkpoint {path}; shipped maps: {', '.join(shipped()) or 'none'}"
        )
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); train or copy it again"
        ) from error
    try:
        header = json.loads(metadata.get("steer", "null"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} has a header that is no JSON ({error}); train or copy it again"
        ) from error
    known = isinstance(header, dict) and header.get("format") == FORMAT["format"]
    if not known or "build" not in header:
        raise ValueError(
            f"{path} holds weights but not how to build their module; "
            "save it with steer.checkpoint.save or rewards.save_classifier"
        )
    if header.get("version") != FORMAT["version"]:
        raise ValueError(
            f"{path} has version {header.get('version')} of the format, "
            f"this steer reads {FORMAT['version']}; update steer"
        )
    return header


def load_module(path: str | Path, trusted: Sequence[str] = TRUSTED) -> nn.Module:
    """Load the module of a checkpoint, frozen and in evaluation mode.

    Args:
        path: a .safetensors file.
        trusted: the packages or modules whose classes it may build.

    Raises:
        ValueError: missing or damaged file, untrusted class, or weights of another shape than the
            header says.
    """
    header = read_header(path)
    trusted = (*trusted, *FURTHER.get())
    with safe_open(str(path), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "lora" in header:
        return with_adapters(Path(path), header, tensors, trusted)
    try:
        module = build(header["build"], trusted)
    except ValueError as error:
        raise ValueError(f"{path} cannot be built from its header: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"{path} describes a {type(module).__name__}, which holds no weights; save a module"
        )
    if differs := difference(module.state_dict(), tensors):
        raise ValueError(f"{path} does not fit its own header: {differs}; save it again")
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def with_adapters(
    path: Path,
    header: dict[str, Any],
    tensors: Mapping[str, Tensor],
    trusted: Sequence[str] = TRUSTED,
) -> nn.Module:
    """Load the base of a file of adapters, relative to the file or shipped, and add the adapters.

    Raises:
        ValueError: the base is missing, or its weights have changed.
    """
    from steer.tuning import lora

    base = header["base"]
    file = path.parent / base if base.endswith(".safetensors") else WEIGHTS / f"{base}.safetensors"
    if not file.is_file():
        raise ValueError(f"{path} holds adapters of the map {file}, which is missing; put it back")
    module = plain(file, trusted)
    if fingerprint(module) != header["base_sha256"]:
        raise ValueError(
            f"{path} holds adapters of another map than {file} now is; "
            "restore the map they were tuned on"
        )
    lora.put_adapters(module, tensors, **header["lora"])
    if not header.get("interpolates", True):
        module.interpolates = False
    return module.eval().requires_grad_(False)


def plain(path: str | Path, trusted: Sequence[str] = TRUSTED) -> Any:
    """Load the module of a checkpoint, with adapters merged into its weights."""
    from steer.tuning.lora import without_lora

    module: Any = load_module(path, trusted)
    return without_lora(module)


def fingerprint(module: nn.Module) -> str:
    """Compute the SHA-256 of the weights of a module, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def average(shares: Mapping[str, float], path: str | Path) -> None:
    """Write the weighted mean of the weights of several checkpoints.

    They must share their architecture, and all be trained from one of them or from one common
    start. The mean often outperforms each of them.

    Reference: Wortsman et al. 2022, arXiv 2109.01903 (weights before and after fine-tuning), arXiv
    2203.05482 (model soups).

    Args:
        shares: name, folder or path of each (see `find`) -> its positive share; they are divided by
            their sum.
        path: of the new checkpoint, whose header is the first one's, with `average`, the shares.

    Raises:
        ValueError: no positive shares, or weights that do not fit those of the first.
    """
    if not shares or not all(share > 0 for share in shares.values()):
        raise ValueError(f"average takes a positive share of each checkpoint; got {dict(shares)}")
    files = [find(name) for name in shares]
    total = sum(shares.values())
    modules = [plain(file) for file in files]
    states = [module.state_dict() for module in modules]
    for name, state in zip(shares, states, strict=True):
        if differs := difference(states[0], state):
            raise ValueError(f"{name} is of another build than {next(iter(shares))}: {differs}")
    for name, weight in modules[0].state_dict().items():
        if weight.is_floating_point():
            parts = (
                state[name].double() * share
                for state, share in zip(states, shares.values(), strict=True)
            )
            weight.copy_(torch.stack(list(parts)).sum(0) / total)
    header = read_header(files[0])
    more = {key: value for key, value in header.items() if key not in NOT_OF_WEIGHTS}
    save(
        modules[0],
        path,
        header["build"],
        **{**more, "average": {str(name): s / total for name, s in shares.items()}},
    )


def difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Describe the first weight whose shape differs between two sets; None if all agree."""
    for name in sorted(expected.keys() | found.keys()):
        want, got = (
            tuple(where[name].shape) if name in where else "nothing" for where in (expected, found)
        )
        if want != got:
            return f"{name} should be {want} and is {got}"
    return None


def load(name: str | Path, trust: Sequence[str] = ()) -> FlowMap:
    """Load a flow map, frozen and in evaluation mode.

    Args:
        name: a shipped map ("fashion"), a run folder or other folder holding map.safetensors or
            adapters.safetensors, a .safetensors file, or "hub:owner/name", see `steer.hub`. A map
            with adapters keeps them apart from its weights; `steer.tuning.without_lora` merges.
        trust: further packages whose classes the checkpoint may build, such as one's own networks.
            Building them runs their code.

    Raises:
        ValueError: there is nothing of that name, it is no flow map, or it names a class of another
            package.
    """
    if isinstance(trust, str):
        raise ValueError(f"trust is a list of packages; got {trust!r}: write trust=[{trust!r}]")
    module = load_module(find(name), (*TRUSTED, *trust))
    if not isinstance(module, FlowMap):
        raise ValueError(
            f"{name} holds a {type(module).__name__}, not a flow map; "
            "load it with the package it belongs to"
        )
    return module


def find(name: str | Path) -> Path:
    """Find the file of a shipped name, a folder, a path or "hub:owner/name", which is fetched.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if str(name).startswith("hub:"):
        from steer import hub

        path = hub.fetch(str(name))
    if path.suffix == ".safetensors":
        return path
    for candidate in (
        path / "map.safetensors",
        path / "adapters.safetensors",
        WEIGHTS / f"{name}.safetensors",
    ):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ValueError(
            f"the folder {name} holds no map.safetensors; give that of a finished training run"
        )
    known = ", ".join(shipped()) or "none"
    raise ValueError(f"no map is called {str(name)!r}: shipped are {known}, or give a path")


def shipped() -> list[str]:
    """List the names of the maps that come with this package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
