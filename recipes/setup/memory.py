"""Errors of memory that has run out, told in one line with the keys that would need less."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line is read without it
    from omegaconf import DictConfig

MESSAGES = (  # of torch
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
)
BATCHES = ("max_batch", "decode_batch")
CHEAPER = {"dtype": ("float32", "bfloat16"), "recompute": (False, True)}  # what costs more, less


class OutOfMemory(ValueError):
    """Memory ran out; the message says what to lower."""


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, RuntimeError):
        return any(message in str(error) for message in MESSAGES)
    return isinstance(error, MemoryError)


@contextmanager
def told_of_memory(doing: str, config: "DictConfig", kept: bool = False) -> Iterator[None]:
    """Turns an error of memory in the `with` into one that names the keys to change.

    Args:
        doing: what is done, for the message.
        config: of the run, whose values the message gives.
        kept: whether there are finished parts to go on from.

    Raises:
        OutOfMemory: in place of what torch or Python raise.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        size = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        asked = f" (of {size[1]} asked for)" if size else ""
        resume = "; run.resume=true goes on from the prompts that are finished" if kept else ""
        said = f"not enough memory{asked} while {doing}: {advice(config)}{resume}"
        raise OutOfMemory(said) from error


def advice(config: "DictConfig") -> str:
    """The keys that would need less memory, with their values; those that a config has."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config)
    parts = {key: plain[key] for key in ("sampler", "base", "samplers", "model") if key in plain}
    batches, cheaper = [], []
    for path, value in leaves(parts):
        name = path.rpartition(".")[2]
        if name in BATCHES and value != 1:
            batches.append(f"{path} ({'all at once' if value is None else value})")
        elif name in CHEAPER and value == CHEAPER[name][0]:
            cheaper.append(f"{path}={str(CHEAPER[name][1]).lower()}")
    if not any(path.endswith("max_batch") for path, _ in leaves(parts)):
        batches.append("sampler.max_batch (all at once)")
    counts = ("prompts_at_once", "particles")
    batches += [f"{key} ({plain[key]})" for key in counts if plain.get(key, 1) != 1]
    more = f", or set {', '.join(cheaper)}" if cheaper else ""
    return f"lower {', '.join(batches)}{more}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of nested dictionaries, each with its dotted key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
