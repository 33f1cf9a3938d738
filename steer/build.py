"""Objects from nested dictionaries, as in configs and checkpoints.

{"_target_": "steer.networks.UNet", "channels": [64, 128]} -> UNet(channels=[64, 128])

A target is a dotted path or `file.py:Name`: how configs name classes and how checkpoints remember
what to build. Naming Python code is running it: only `build` what you would run. Checkpoints pass
`trusted`, which admits classes defined in those modules alone, so that a weights file from a
stranger cannot name other code, not even by way of a module that ours import
("steer.checkpoint.os.system"), nor a class of ours that reads files or asks servers.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer.annotations import Built, annotated, is_open, named, refuse_misfits
from steer.nearest import hint

FROM_FILE = "steer_user_"  # how the modules of files are called


def resolve(name: str) -> Any:
    """Import the object `name`, "package.module.Name" or "path/to/file.py:Name".

    Raises:
        ValueError: there is no such object, or importing it failed; in one line.
    """
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _attribute(_module_from_file(Path(path)), attribute, path)
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"{name!r} is no dotted path; write package.module.Name or path/to/file.py:Name"
        )
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise ValueError(f"importing {module_name} for {name!r} failed: {error}") from error
            continue
        except Exception as error:
            raise ValueError(
                f"importing {module_name} for {name!r} failed: {_one_line(error)}"
            ) from error
        for attribute in parts[cut:]:
            found = _attribute(found, attribute, module_name)
        return found
    raise ValueError(
        f"no Python object is called {name!r}; write package.module.Name or path/to/file.py:Name"
    )


def build(node: Any, trusted: Sequence[str] | None = None, path: str = "") -> Any:
    """Replace every dictionary in `node` that has a `_target_` by the object it describes.

    Args:
        node: nested dictionaries, lists and plain values.
        trusted: if given, the only packages or modules whose classes a target may name.
        path: the key of the node in its config, with dots, for errors to name.

    Raises:
        ValueError: a target that does not exist, is not trusted, or does not take the arguments, or
            an unknown key that starts with an underscore; names the key, and the nearest valid.
    """
    if isinstance(node, (list, tuple)):
        return [build(item, trusted, f"{path}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {
        key: build(value, trusted, below(path, key))
        for key, value in node.items()
        if key != "_target_"
    }
    target = target_of(node, trusted, path)
    return arguments if target is None else _call(target, node["_target_"], arguments, path)


def examine(node: Any, path: str = "") -> Any:
    """Check `node` as `build` would, with a `Built` for each object and without building any.

    Raises:
        ValueError: what `build` would say of targets, and of arguments, apart from those that are
            missing.
    """
    if isinstance(node, (list, tuple)):
        return [examine(item, f"{path}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    target = target_of(node, None, path)
    arguments = {
        key: examine(value, below(path, key)) for key, value in node.items() if key != "_target_"
    }
    if target is None:
        return arguments
    name = node["_target_"]
    refuse_uncallable(target, name, path)
    refuse_unknown(target, name, arguments, path)
    refuse_misfits(target, arguments, f"{path}." if path else f"{name}: ")
    return Built(target)


def below(path: str, key: Any) -> str:
    """Join a key to the path of its parent."""
    return f"{path}.{key}" if path else str(key)


def target_of(node: dict, trusted: Sequence[str] | None, path: str) -> Any:
    """Import the target of a dictionary, None for a plain one. Raises ValueError as `build`."""
    at = f"{path}: " if path else ""
    for key in node:
        if str(key).startswith("_") and key != "_target_":
            raise ValueError(f"{at}a node has no key {key!r}; did you mean '_target_'?")
    if "_target_" not in node:
        return None
    name = node["_target_"]
    at = f"{below(path, '_target_')}: " if path else ""
    if not isinstance(name, str):
        raise ValueError(f"{at}a _target_ is a dotted path or file.py:Name; got {name!r}")
    packages = {each.partition(".")[0] for each in trusted or ()}
    if trusted is not None and (".py:" in name or not within(name, list(packages))):
        raise ValueError(_untrusted(name, trusted))
    try:
        target = resolve(name)
    except ValueError as error:
        raise ValueError(f"{at}{error}") from error
    if trusted is not None and not (inspect.isclass(target) and within(target.__module__, trusted)):
        raise ValueError(_untrusted(name, trusted))
    return target


def within(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted path lies in one of these packages or modules."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _untrusted(name: str, trusted: Sequence[str]) -> str:
    own = name.partition(".")[0]
    return (
        f"a checkpoint may only build classes of {', '.join(trusted)}; this one names {name!r}: if"
        f" you would run that code, load it with trust=[{own!r}]"
    )


def _call(target: Any, name: str, arguments: dict[str, Any], path: str) -> Any:
    refuse_uncallable(target, name, path)
    refuse_unknown(target, name, arguments, path)
    missing = [
        key for key, p in named(target).items() if p.default is p.empty and key not in arguments
    ]
    if missing:
        at = f"{path}: " if path else ""
        raise ValueError(f"{at}{name} needs {', '.join(missing)}, which the config does not give")
    refuse_misfits(target, arguments, f"{path}." if path else f"{name}: ")
    try:
        return target(**arguments)
    except (ValueError, OSError) as error:
        raise ValueError(f"{_about(str(error), arguments, path)}{error}") from error
    except Exception as error:  # most often an argument of the wrong type or size
        raise ValueError(
            f"{_about('', {}, path)}{name} could not be built: {_one_line(error)}"
        ) from error


def refuse_uncallable(target: Any, name: str, path: str) -> None:
    """Raise ValueError for a target that cannot be called."""
    if not callable(target):
        at = f"{below(path, '_target_')}: " if path else ""
        raise ValueError(f"{at}{name} is not a class or function, so nothing can be built from it")


def refuse_unknown(target: Any, name: str, arguments: dict[str, Any], path: str) -> None:
    """Raise ValueError at the first argument that the target does not take, with the nearest."""
    if is_open(target):  # it checks its own arguments
        return
    known = annotated(target)
    for key in arguments:
        if key not in known:
            at = f"{below(path, key)}: " if path else ""
            raise ValueError(f"{at}{name} takes no argument {key!r}; {hint(key, known)}")


def _about(error: str, arguments: dict[str, Any], path: str) -> str:
    """Find the key that an error is about, by the argument's name or value in its message."""
    if not path or error.startswith((f"{path}: ", f"{path}.")):
        return ""
    by_name = [key for key in arguments if re.search(rf"\b{re.escape(str(key))}\b", error)]
    by_value = [
        key
        for key, value in arguments.items()
        if value and isinstance(value, str) and value.split(":")[0] in error
    ]
    spoken = next(
        (found for found in (by_name, by_value, list(arguments)) if len(found) == 1), None
    )
    return f"{below(path, spoken[0]) if spoken else path}: "


def _attribute(owner: Any, attribute: str, where: str) -> Any:
    try:
        return getattr(owner, attribute)
    except AttributeError:
        inside = (module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", [])))
        own = where.endswith(".py")
        names = (
            {name for name in dir(owner) if not _brought_in(owner, name)}
            if own
            else {*dir(owner), *inside}
        )
        public = {n for n in names if not n.startswith("_")}
        raise ValueError(f"{where} has no {attribute!r}; {hint(attribute, public)}") from None


def _brought_in(module: Any, name: str) -> bool:
    """Whether a name of a file is only imported: a module, or a function or class of another."""
    value = vars(module).get(name)
    from_where = (
        getattr(value, "__module__", None)
        if inspect.isroutine(value) or inspect.isclass(value)
        else module.__name__
    )
    return inspect.ismodule(value) or from_where != module.__name__


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path from where you run the command")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[
        :16
    ]  # the same name in every process
    spec = importlib.util.spec_from_file_location(f"{FROM_FILE}{path.stem}_{digest}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if (beside := str(path.resolve().parent)) not in sys.path:
        sys.path.append(beside)  # so that it may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(spec.name, None)
        raise ValueError(f"{path} could not be run: {_one_line(error)}") from error
    return module
