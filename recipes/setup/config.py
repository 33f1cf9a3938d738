"""Configs: a command's defaults, under a YAML file, under `key=value` from the command line.

configs/<command>.yaml holds every key a command knows, its default and its meaning, `???` where
there is none. The shipped configs are configs/<group>/<name>.yaml. A node with a `_target_`
describes an object, and what may stand in it is for that object to say; a node with a new
`_target_` takes the old one's place, keys and all, and a dotted name where only an object fits
(sampler=steer.samplers.Sde) is such a `_target_`. Everywhere else a key that the defaults do not
have is refused. A config may begin with `extends: NAME`, and then says only what it changes.

Besides ${keys}, a config may take from a folder of pictures what its network must be told before
it is built: ${class_names:FOLDER}, ${captions:FOLDER}, ${words:FOLDER} (of the captions), each with
a second number for the first so many, and ${length:LIST}.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from steer.data.picture_files import captions_of, classes_of
from steer.discovery import exports
from steer.nearest import suggestion
from steer.networks.text import vocabulary


def in_folder(read: Callable[[str], list[str]]) -> Callable[..., list[str]]:
    """A resolver of what is found in a folder of pictures, or of the first so many of it."""

    def found(folder: Any, most: int | None = None) -> list[str]:
        return read(str(folder))[:most]

    return found


RESOLVERS: dict[str, Callable[..., Any]] = {
    "class_names": in_folder(classes_of),
    "captions": in_folder(lambda folder: list(dict.fromkeys(captions_of(folder)))),
    "words": in_folder(lambda folder: vocabulary(captions_of(folder))),
    "length": len,
}
for called, function in RESOLVERS.items():
    OmegaConf.register_resolver(called, function, replace=True)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"
MISSING = "???"
FILES = r"safetensors|py|yaml|json|jsonl|ckpt|pt|npy|txt"
DOTTED = re.compile(  # package.Name, or file.py:Name; no file
    rf"(?!.*\.({FILES})$)[A-Za-z_]\w*(\.\w+)+|.+\.py:\w+"
)
JUDGES = ("heldout", "judge")
PACKAGES = {  # of the classes that a key takes, where nothing else is written as a bare name
    "reward": ["rewards"],
    "heldout": ["rewards"],
    "sampler": ["steer.samplers"],
    "base": ["steer.samplers"],
    "lookahead": ["steer.lookahead"],
    "objective": ["steer.training", "steer.tuning"],
    "diagonal": ["steer.training"],
    "off_diagonal": ["steer.training"],
}
COMMANDS = ("sample", "train", "tune", "compare", "evaluate", "verify")


def load(command: str, name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """The config of one run, complete and resolved.

    Args:
        command: whose keys and defaults: sample, train, tune, evaluate, compare or verify.
        name: a shipped config ("fashion/steer") or the path of a YAML file.
        overrides: "key=value", keys with dots, values in YAML; later ones win.

    Raises:
        ValueError: no such config, bad YAML, an unknown key, a value of the wrong type, or a key
            without a value.
    """
    refuse_run_folder(command, name)
    merged = combined(command, name, overrides)
    refuse_bare_names(merged)
    if gap := next(gaps(merged), None):
        refuse_another_command(command, name)
        raise ValueError(
            f"{name} gives no {gap!r}, which steer {command} needs; write it there, or add"
            f" {gap}=..."
        )
    merged = with_targets(command, merged)
    if merged["run"]["dir"] in (None, ""):
        merged["run"]["dir"] = f"runs/{short_name(name)}"
    config = resolved(merged, name)
    refuse_misfits(command, config)
    return config


def refuse_run_folder(command: str, name: str) -> None:
    """Raises ValueError for the folder of a run in the place of a config."""
    if (Path(name) / "config.yaml").is_file():
        key = "start" if command == "train" else "model"
        raise ValueError(
            f"{name} is a run folder, and a config comes first: type steer {command} CONFIG"
            f" {key}={name}; `steer list configs` shows configs"
        )


def refuse_bare_names(config: dict[str, Any]) -> None:
    """Raises ValueError for a class without its package, where only a dotted name fits."""
    for path, value in texts_of(config):
        key = path.removesuffix("._target_").rpartition(".")[2]
        if key in PACKAGES and value.isidentifier():
            raise ValueError(f"{path}={value} has no package; {dotted_near(value, PACKAGES[key])}")


def dotted_near(name: str, packages: Iterable[str]) -> str:
    """The end of an error message: the dotted names nearest to one without its package."""
    dotted = {
        known: f"{package}.{known}"
        for package in packages
        for known, _ in exports(package, ROOT.joinpath(*package.split(".")))
    }
    folded = {known.casefold(): known for known in dotted}
    most = 1 if name.casefold() in folded else 3
    near = get_close_matches(name.casefold(), folded, most, 0.6)
    close = [dotted[folded[each]] for each in near]
    if not close:
        return "write package.Name or file.py:Name; `steer list` shows what there is"
    return f"did you mean {' or '.join(close)}?"


def combined(command: str, name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The defaults of a command under a config under the command line, as they are written.

    Raises:
        ValueError: no such config, bad YAML, or an unknown key.
    """
    defaults = read(CONFIGS / f"{command}.yaml")
    file = extended(name)
    line = parse(overrides)
    try:
        refuse_unknown(file, defaults, command, name)
    except ValueError:
        refuse_another_command(command, name)
        raise
    refuse_unknown(line, defaults, command, "the command line")
    merged = merge(defaults, file)
    refuse_nothing(line, merged, "the command line")
    if "reward" in line and over(merged.get("reward"), line["reward"]) == line["reward"]:
        merged = without_judges(merged, line, name)
    return merge(merged, line)


def without_judges(config: dict[str, Any], line: dict[str, Any], name: str) -> dict[str, Any]:
    """A config without the held-out reward and the judge of a reward that is replaced.

    Those that the command line gives stay, and what refers to the judge keeps it. Says what is left
    out.

    Args:
        config: without the command line.
        line: the command line.
        name: of the config.
    """
    if line["reward"] is None or line["reward"] == config.get("reward"):
        return config
    dropped = [key for key in JUDGES if config.get(key) is not None and key not in line]
    kept = config
    for key in dropped:
        kept = {**filled(kept, key, config[key]), key: None}
    by = (config.get("stop") or {}).get("by")
    if any(str(by).startswith(key) for key in dropped):
        kept = {**kept, "stop": {**config["stop"], "by": None}}
        dropped.append(f"stop.by={by}")
    if dropped:
        warnings.warn(
            f"another reward than that of {name}: {', '.join(dropped)} of it left out; give those"
            f" of the new reward, as in {dropped[0].partition('=')[0]}=...",
            stacklevel=2,
        )
    return kept


def filled(config: Any, key: str, value: Any) -> Any:
    """The same with ${key} replaced by the value, everywhere."""
    if isinstance(config, dict):
        return {name: filled(item, key, value) for name, item in config.items()}
    if isinstance(config, list):
        return [filled(item, key, value) for item in config]
    return value if config == f"${{{key}}}" else config


def refuse_another_command(command: str, name: str) -> None:
    """Raises ValueError for a config that another command takes as it is.

    One whose keys all commands know is no config of another.
    """
    if not {*extended(name)} - {*read(CONFIGS / f"{command}.yaml")}:
        return
    others = [other for other in COMMANDS if other != command and takes(other, name)]
    if others:
        raise ValueError(
            f"{name} is a config for {' or '.join(others)}, not for {command}: steer"
            f" {others[0]} {name}"
        )


def takes(command: str, name: str) -> bool:
    """Whether a config has what a command needs, and no key that it does not know."""
    defaults = read(CONFIGS / f"{command}.yaml")
    file = extended(name)
    try:
        refuse_unknown(file, defaults, command, name)
    except ValueError:
        return False
    return not {*gaps(merge(defaults, file))} & {*gaps(defaults)}


def with_targets(command: str, merged: dict[str, Any]) -> dict[str, Any]:
    """A config in which the dotted name of a class stands for a node with that `_target_`."""
    from recipes.setup.schema import targeted  # loads what the command needs anyway

    return targeted(command, merged)


def refuse_misfits(command: str, config: DictConfig) -> None:
    """Raises ValueError at the first value whose kind does not fit its key; names the key."""
    from recipes.setup.schema import check  # loads what the command needs anyway

    plain: Any = OmegaConf.to_container(config)
    try:
        check(command, plain)
    except ValueError as error:
        raise ValueError(as_written(str(error), plain)) from error


def as_written(error: str, config: dict[str, Any]) -> str:
    """An error about a node that was filled in for ${key}, with that top-level key in its place."""
    written = [
        (path, key)
        for key, one in config.items()
        for path, node in nodes_of(config)
        if node == one and path != key
    ]
    found = next(
        ((path, key) for path, key in written if re.match(rf"{re.escape(path)}\b", error)), None
    )
    return error if found is None else found[1] + error[len(found[0]) :]


def nodes_of(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The nodes with a _target_, each with its key, outermost first."""
    for key, value in config.items():
        if isinstance(value, dict):
            if "_target_" in value:
                yield f"{path}{key}", value
            yield from nodes_of(value, f"{path}{key}.")


def extended(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A config merged over the one that it `extends`, recursively."""
    if name in above:
        raise ValueError(f"{' extends '.join((*above, name))}: configs cannot go round in a circle")
    content = read(find(name))
    base = content.pop("extends", None)
    if base is None:
        return content
    below = extended(str(base), (*above, name))
    refuse_nothing(content, below, name)
    return merge(below, content)


def shipped() -> list[str]:
    """The names of the shipped configs."""
    return sorted(
        path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.yaml")
    )


def find(name: str) -> Path:
    """The file behind a shipped name or a path."""
    if name in shipped():
        return CONFIGS / f"{name}.yaml"
    path = Path(name)
    if path.is_file():
        return path
    near = suggestion(name, shipped(), cutoff=0.4) or "; `steer list` shows what there is"
    raise ValueError(f"no config is called {name!r}{near}")


def first_comment(name: str) -> str:
    """What a config is for: its first line."""
    return find(name).read_text().partition("\n")[0].lstrip("# ")


def short_name(name: str) -> str:
    """The name of a run of this config: fashion/steer -> fashion-steer, my/own.yaml -> own."""
    return name.replace("/", "-") if name in shipped() else Path(name).stem


def read(path: Path) -> dict[str, Any]:
    """A YAML file as plain dictionaries, its ${interpolations} still in it."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold keys and values; got a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def parse(overrides: Iterable[str]) -> dict[str, Any]:
    """{"a": {"b": 1}} from ["a.b=1"]."""
    overrides = list(overrides)
    deeper = {item.partition("=")[0].rpartition(".")[0] for item in overrides}
    for k, item in enumerate(overrides):
        key, _, value = item.partition("=")
        if key in deeper and DOTTED.fullmatch(value):  # sampler=steer.samplers.Sde sampler.steps=9
            overrides[k] = f"{key}._target_={value}"
        if "=" not in item.lstrip("="):
            raise ValueError(f"expected key=value, got {item!r}; write for instance seed=1")
    try:
        content = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    except (YAMLError, OmegaConfBaseException, ValueError, AttributeError) as error:
        raise ValueError(
            f"cannot read {' '.join(overrides)!r}: {error}; values are YAML"
        ) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def refuse_unknown(given: dict, known: dict, command: str, where: str, path: str = "") -> None:
    """Raises ValueError at the first key of `given` that `known` does not have."""
    for key, value in given.items():
        if key not in known:
            near = (
                suggestion(key, known, prefix=path)
                or f"; it knows {', '.join(path + name for name in known)}"
            )
            raise ValueError(f"{where}: steer {command} knows no key {path + str(key)!r}{near}")
        if is_section(known[key]):
            if not isinstance(value, dict):
                keys = ", ".join(known[key])
                raise ValueError(
                    f"{where}: {path + key} is a section with the keys {keys}; got {value!r}"
                )
            refuse_unknown(value, known[key], command, where, f"{path}{key}.")


def refuse_nothing(given: dict, config: dict, where: str) -> None:
    """Raises ValueError where a null would remove a method or a sampler that is not there."""
    for section in ("methods", "samplers"):
        known = config.get(section) or {}
        said = given.get(section)
        for name, value in (
            said.items() if isinstance(said, dict) and isinstance(known, dict) else ()
        ):
            if value is None and name not in known:
                raise ValueError(
                    f"{where}: {section}.{name}=null takes out nothing{suggestion(name, known)}"
                )


def is_section(value: Any) -> bool:
    """Whether a default fixes the keys below it: a non-empty dictionary without a target."""
    return isinstance(value, dict) and bool(value) and "_target_" not in value


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, recursively."""
    return {**old, **{key: over(old.get(key), value) for key, value in new.items()}}


def over(old: Any, new: Any) -> Any:
    """The value of a key under `new` over `old`; a new `_target_` replaces its whole node."""
    same = (
        isinstance(old, dict)
        and isinstance(new, dict)
        and new.get("_target_") in (None, old.get("_target_"))
    )
    return merge(old, new) if same else new


def gaps(config: dict[str, Any], path: str = "") -> Iterator[str]:
    """The keys that still have no value."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from gaps(value, f"{path}{key}.")
        elif value == MISSING:
            yield f"{path}{key}"


def resolved(merged: dict[str, Any], name: str) -> DictConfig:
    """The merged config with its interpolations filled in, read-only."""
    try:
        config = OmegaConf.create(merged)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        if isinstance(error.__cause__, ValueError):  # of a resolver of ours
            raise ValueError(f"{name}: {key}{error.__cause__}") from error
        refers = (
            f", in {written}"
            if (written := dict(texts_of(merged)).get(str(error.full_key)))
            else ""
        )
        raise ValueError(f"{name}: {key}{str(error).splitlines()[0]}{refers}") from error
    OmegaConf.set_readonly(config, True)
    OmegaConf.set_struct(config, True)
    return config


def texts_of(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The strings in a config, each with its key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from texts_of(value, f"{path}{key}.")
        elif isinstance(value, str):
            yield f"{path}{key}", value
