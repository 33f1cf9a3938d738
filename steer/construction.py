"""Representations of objects as the calls that build them, to be pasted back after `import steer`.

Classes that are `remembered` keep the arguments of their construction; of others, attributes are
written that are called as the arguments are. What cannot be known is an ellipsis. Tensors of up to
sixteen numbers are written as lists, longer ones by their shape; the weights of networks are not
part of what is written.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

KEPT = "_construction"  # the attribute that holds the arguments
LONGEST = 16  # numbers of a tensor that is written out
PLAIN = (int, float, str, bool, type(None))


def remembered(kind: type) -> type:
    """Make a class keep the arguments that its objects are built by."""
    if "__init__" in vars(kind):
        kind.__init__ = remembering(kind.__init__)  # type: ignore[misc]
    return kind


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate an `__init__` to keep its arguments; in a chain of them, those of the first."""

    @functools.wraps(init)
    def kept(self: Any, *arguments: Any, **keywords: Any) -> None:
        vars(self).setdefault(KEPT, (arguments, keywords))
        init(self, *arguments, **keywords)

    return kept


def call_of(thing: Any) -> str:
    """Write the call that builds an object, as far as it is known.

    An argument that the object has as an attribute is written as it is now.
    """
    arguments = [f"{name}={word(value)}" for name, value in given_to(thing).items()]
    known = KEPT in vars(thing) or not required(type(thing)) - given_to(thing).keys()
    return f"{public_name(type(thing))}({', '.join(arguments if known else [*arguments, '...'])})"


def given_to(thing: Any) -> dict[str, Any]:
    """The arguments by name, those left out apart where they are known."""
    if is_dataclass(thing):
        return {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
    if KEPT not in vars(thing):
        own = {**vars(thing), **vars(thing).get("_modules", {})}
        return {name: own[name] for name in parameters(type(thing)) if name in own}
    arguments, keywords = vars(thing)[KEPT]
    bound = inspect.signature(type(thing).__init__).bind(thing, *arguments, **keywords).arguments
    flat: dict[str, Any] = {}
    for name, was in [*bound.items()][1:]:
        flat |= was if name not in parameters(type(thing)) else {name: now(thing, name, was)}
    return flat


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class that have a name of their own."""
    found = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in [*found.items()][1:] if p.kind not in variadic}


def required(kind: type) -> set[str]:
    """The parameters of a class without a default."""
    return {name for name, p in parameters(kind).items() if p.default is p.empty}


def now(thing: Any, name: str, was: Any) -> Any:
    """The attribute of that name, if it is of the kind of the argument; else the argument."""
    current = vars(thing).get(name, was)
    return current if isinstance(current, PLAIN) and isinstance(was, PLAIN) else was


def word(value: Any) -> str:
    """Write a value: plain ones as they are, objects as calls, functions by their names."""
    match value:
        case Tensor():
            return str(value.tolist()) if value.numel() <= LONGEST else f"<{shape_of(value)}>"
        case list() | tuple():
            return f"[{', '.join(map(word, value))}]"
        case dict():
            return f"{{{', '.join(f'{k!r}: {word(v)}' for k, v in value.items())}}}"
        case type():
            return public_name(value)
    if isinstance(value, PLAIN):
        return repr(value)
    if inspect.isroutine(value):
        return public_name(value)
    ours = type(value).__module__.split(".")[0] in ("steer", "rewards")
    if ours or is_dataclass(value) or KEPT in getattr(value, "__dict__", {}):
        return call_of(value)
    return f"{type(value).__name__}(...)" if isinstance(value, nn.Module) else repr(value)


def shape_of(x: Tensor) -> str:
    """Describe a tensor by its shape."""
    return f"tensor of shape {tuple(x.shape)}"


def public_name(thing: Any) -> str:
    """The shortest dotted name of a class or function of this project; of others, its own name."""
    name = getattr(thing, "__qualname__", repr(thing))
    module = getattr(thing, "__module__", "") or ""
    parts = module.split(".")
    if parts[0] not in ("steer", "rewards") or "<" in name:
        return name if "<" not in name else f"<{name.replace('<', '').replace('>', '')}>"
    for home in (parts[0], ".".join(parts[:2])):
        if name in getattr(sys.modules.get(home), "__all__", ()):
            return f"{home}.{name}"
    return f"{module}.{name}"
