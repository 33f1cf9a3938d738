"""From a nested dictionary to an object: {"_target_": "steer.networks.UNet", "channels": [64, 128]} -> UNet(...).

A target is a dotted path or `file.py:Name`. This is how configs name classes and how checkpoints remember what to build.
Naming Python code is running it: only `build` what you would run. Checkpoints pass `trusted`, which admits this
project's own packages alone, so that a weights file from a stranger cannot name other code.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def resolve(name: str) -> Any:
    """The object called `name`: "package.module.Name" or "path/to/file.py:Name". Raises ValueError in one line."""
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _attribute(_module_from_file(Path(path)), attribute, path)
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not module_name.startswith(error.name):
                raise ValueError(f"importing {module_name} for {name!r} failed: {error}") from error
            continue
        for attribute in parts[cut:]:
            found = _attribute(found, attribute, module_name)
        return found
    raise ValueError(f"no Python object is called {name!r}; write package.module.Name or path/to/file.py:Name")


def build(node: Any, trusted: Sequence[str] | None = None) -> Any:
    """`node` with every dictionary that has a `_target_` replaced by the object it describes, inside out.

    Args:
        node: nested dictionaries, lists and plain values.
        trusted: if given, the only top-level packages a target may come from.

    Raises:
        ValueError: a target that does not exist, is not trusted, or does not take the arguments; names the nearest valid.
    """
    if isinstance(node, (list, tuple)):
        return [build(item, trusted) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: build(value, trusted) for key, value in node.items() if not key.startswith("_")}
    if "_target_" not in node:
        return arguments
    name = node["_target_"]
    if trusted is not None and (".py:" in name or name.split(".")[0] not in trusted):
        raise ValueError(f"a checkpoint may only build classes of {', '.join(trusted)}; this one names {name!r}")
    return _call(resolve(name), name, arguments)


def _call(target: Any, name: str, arguments: dict[str, Any]) -> Any:
    if not callable(target):
        raise ValueError(f"{name} is not a class or function, so nothing can be built from it")
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # a built-in without a signature: let it judge its own arguments
        parameters = {}
    open_ended = not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in arguments:
        if not open_ended and key not in parameters:
            raise ValueError(f"{name} takes no argument {key!r}{_nearest(key, parameters)}")
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [p for p in missing if p not in arguments]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}, which the config does not give")
    return target(**arguments)


def _attribute(owner: Any, attribute: str, where: str) -> Any:
    try:
        return getattr(owner, attribute)
    except AttributeError:
        names = [n for n in dir(owner) if not n.startswith("_")]
        raise ValueError(f"{where} has no {attribute!r}{_nearest(attribute, names)}") from None


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(names)) or 'none'}"


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path from where you run the command")
    spec = importlib.util.spec_from_file_location(f"steer_user_{path.stem}_{abs(hash(path.resolve()))}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    return module
