"""Runtime checks of values from configs and callers against the annotations of a signature.

`refuse_misfits(target, arguments, ...)` raises a ValueError that names the first argument whose
annotation it does not fit. Understood are int (no bool), float (an int will do; finite, unless the
annotation is `Extended`), bool, str, None, Any, Literal, Union, Annotated with bounds, lists,
tuples and mappings, classes, protocols, tensors (shapes apart), and callables, by the number of
their arguments and what they return. What it does not understand, it lets pass.
"""

import functools
import inspect
import math
import numbers
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from torch import Tensor, nn

MOST = 2**31 - 1  # the largest whole number; larger counts would never end
MOST_SEED = 2**63 - 1
SHOWN = 60  # characters of what came
UNIONS = (Union, types.UnionType)


# --- what an annotation may say beyond a type ---------------------------------------------------
@dataclass(frozen=True)
class AtLeast:
    """A lower bound, as in Annotated[int, AtLeast(1)]; for a list, of its length."""

    least: int

    def holds(self, value: Any) -> bool:
        """Whether the value, or the length of a list, is at least that."""
        return (len(value) if isinstance(value, Collection) else value) >= self.least

    def words(self, of: Any) -> str:
        """Describe the bound for an error."""
        return f"with at least {self.least} of them" if is_many(of) else f"at least {self.least}"


@dataclass(frozen=True)
class Above:
    """A strict lower bound, as in Annotated[float, Above(0)]."""

    bound: float

    def holds(self, value: Any) -> bool:
        """Whether the value is above it."""
        return value > self.bound

    def words(self, of: Any) -> str:
        """Describe the bound for an error."""
        return f"above {self.bound:g}"


@dataclass(frozen=True)
class AtMost:
    """An upper bound, as in Annotated[float, AtMost(1)]."""

    most: float

    def holds(self, value: Any) -> bool:
        """Whether the value is at most that."""
        return value <= self.most

    def words(self, of: Any) -> str:
        """Describe the bound for an error."""
        return f"at most {self.most:g}"


BOUNDS = (AtLeast, Above, AtMost)


@dataclass(frozen=True)
class Infinite:
    """A mark of numbers that may be infinite: Annotated[float, Infinite()]."""


Extended = Annotated[float, Infinite()]
Count = Annotated[int, AtLeast(1)]
Positive = Annotated[float, Above(0)]
NotNegative = Annotated[float, AtLeast(0)]


@dataclass(frozen=True)
class Built:
    """A placeholder for the result of a target (a class or function) before it is built."""

    target: Any

    @property
    def kind(self) -> Any:
        """The class of the result, or None if it is not known."""
        return self.target if isinstance(self.target, type) else kind_returned(self.target)


class Misfit(NamedTuple):
    """A mismatch: its place in a value ("" at the top), what was expected, and what came."""

    where: str
    expected: str
    got: str


# --- signatures ---------------------------------------------------------------------------------
def parameters_of(target: Any) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a class or function, or None if it has no signature."""
    signature = signature_of(target)
    return None if signature is None else signature.parameters


def signature_of(target: Any) -> inspect.Signature | None:
    """Return the signature, with annotations evaluated where possible."""
    for evaluate in (True, False):
        try:
            return inspect.signature(target, eval_str=evaluate)
        except (
            NameError,
            AttributeError,
            SyntaxError,
        ):  # a name that is imported for type checkers alone
            continue
        except (ValueError, TypeError):  # a built-in
            return None
    return None


def annotated(target: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by name, also those passed on by **keywords."""
    return {name: p for one in handed_on(target) for name, p in named(one).items()}


def named(target: Any) -> dict[str, inspect.Parameter]:
    """Return its own parameters that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: p
        for name, p in (parameters_of(target) or {}).items()
        if p.kind in kinds and name != "self"
    }


def handed_on(target: Any) -> list[Any]:
    """List what receives the **keywords of a call, the last first.

    These are the bases of a class, or the class that a function returns.
    """
    chain = [target]
    if (
        not isinstance(target, type)
        and takes_anything(target)
        and kind_returned(target) is not None
    ):
        return [kind_returned(target), target]
    if isinstance(target, type) and takes_anything(target):
        for base in target.__mro__[1:]:
            init = vars(base).get("__init__")
            if init is not None and base is not object:
                chain.insert(0, init)
                if not takes_anything(init):
                    break
    return chain


def is_open(target: Any) -> bool:
    """Whether any keyword is taken, as far as signatures say."""
    return takes_anything(handed_on(target)[0] if isinstance(target, type) else target)


def takes_anything(target: Any) -> bool:
    """Whether there are **keywords, or no signature."""
    parameters = parameters_of(target)
    return parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def refuse_misfits(
    target: Any, arguments: Mapping[str, Any], path: str = "", none: str = "null"
) -> None:
    """Raise ValueError at the first argument that does not fit the target's annotation.

    Args:
        target: a class or function.
        arguments: by name; `Built` stands for what is not built yet.
        path: of the arguments in a config, such as "sampler."; what errors put before a name.
        none: how an error spells None.
    """
    known = annotated(target)
    for name, value in arguments.items():
        if name not in known or same(value, known[name].default):
            continue
        found = misfit(value, known[name].annotation, name)
        if found is not None:
            raise ValueError(line(f"{path}{name}{found.where}", found, known[name], none))


def same(value: Any, default: Any) -> bool:
    """Whether a value is the default, or infinite like it."""
    unbounded = all(isinstance(one, float) and math.isinf(one) for one in (value, default))
    return value is default or unbounded


def line(
    key: str, found: Misfit, parameter: inspect.Parameter | None = None, none: str = "null"
) -> str:
    """Write the error: what was expected, what came, how to fix it."""
    default = inspect.Parameter.empty if parameter is None else parameter.default
    plain = default is None or isinstance(default, bool | int | float | str)
    fix = f"; left out, it is {none if default is None else default}" if plain else ""
    expected = found.expected if none == "null" else in_python(found.expected, none)
    return f"{key} is {expected}; got {found.got}{fix}"


def in_python(expected: str, none: str) -> str:
    """Replace the words of configs in what was expected."""
    plain = expected.replace("null", none).replace(" (a _target_ that builds one)", "")
    return plain.replace("a _target_ that builds one, such as", "such as")


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate an `__init__` to check its arguments against annotations, after its own errors."""

    @functools.wraps(init)
    def checking(self: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            init(self, *arguments, **keywords)
        except ValueError:
            raise
        except Exception:
            refuse(self, arguments, keywords)
            raise
        refuse(self, arguments, keywords)

    def refuse(self: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
        signature = signature_of(init)
        if signature is not None:
            given = signature.bind_partial(self, *arguments, **keywords).arguments
            built = {
                name: value for name, value in given.items() if not isinstance(value, type)
            }  # said at the call
            refuse_misfits(init, built, f"{type(self).__name__}: ", none="None")

    return checking


# --- one value against one annotation -----------------------------------------------------------
def misfit(value: Any, annotation: Any, name: str = "") -> Misfit | None:
    """Find the first mismatch of a value and an annotation, or None."""
    if isinstance(value, Built) and value.kind is None:
        return None
    origin = get_origin(annotation)
    if annotation in (Any, inspect.Parameter.empty, object) or isinstance(annotation, str):
        return infinite_within(value)
    if origin in UNIONS:
        return of_union(value, annotation, name)
    if origin is Annotated:
        return of_annotated(value, annotation, name)
    if isinstance(annotation, NewType):
        return misfit(value, annotation.__supertype__, name)
    if isinstance(annotation, TypeVar):
        return misfit(value, annotation.__bound__ or Any, name)
    if origin is Literal:
        chosen = any(value == one and type(value) is type(one) for one in get_args(annotation))
        return None if chosen else wrong(value, annotation)
    if annotation in (None, type(None)):
        return None if value is None else wrong(value, annotation)
    if annotation in PLAIN:
        return PLAIN[annotation](value, name)
    if tensor_like(annotation):
        return of_class(value, Tensor, annotation)
    if annotation is Callable or origin is Callable:
        return of_callable(value, annotation)
    container = origin or annotation
    if not isinstance(container, type):
        return None
    if container is tuple or (issubclass(container, Collection) and is_many(container)):
        return of_many(value, annotation, container, name)
    if origin is type:
        return None if isinstance(value, type) else wrong(value, annotation)
    if getattr(container, "_is_protocol", False):
        return of_protocol(value, container)
    return of_class(value, container, annotation)


def of_whole(value: Any, name: str) -> Misfit | None:
    """Check a whole number: no bool, and at most MOST, or MOST_SEED for seeds."""
    if isinstance(value, Built | bool) or not isinstance(value, SupportsIndex):
        return wrong(value, int)
    try:
        number = index(value)
    except TypeError:  # a tensor that is no whole number
        return wrong(value, int)
    most = MOST_SEED if name.endswith("seed") else MOST
    return (
        None
        if abs(number) <= most
        else Misfit("", f"a whole number of at most {most}", shown(value))
    )


def of_number(value: Any, name: str) -> Misfit | None:
    """Check a finite number."""
    scalar = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or scalar):
        return wrong(value, float)
    return infinite_within(float(value) if scalar else value)


def of_truth(value: Any, name: str) -> Misfit | None:
    """Check a bool, which 1 and 0 are not."""
    return None if isinstance(value, bool) else wrong(value, bool)


def of_text(value: Any, name: str) -> Misfit | None:
    """Check a string."""
    return None if isinstance(value, str) else wrong(value, str)


PLAIN: dict[Any, Callable[[Any, str], Misfit | None]] = {
    int: of_whole,
    float: of_number,
    bool: of_truth,
    str: of_text,
}


def of_union(value: Any, annotation: Any, name: str) -> Misfit | None:
    """Check against a union; if one option is of the value's kind, it says what is wrong."""
    found = [misfit(value, option, name) for option in get_args(annotation)]
    if None in found:
        return None
    inside = [one for one in found if one is not None and one.where]
    if len(inside) == 1:
        return inside[0]
    finite = ", and finite" if isinstance(value, float) and not math.isfinite(value) else ""
    return Misfit("", words(annotation) + finite, shown(value))


def of_annotated(value: Any, annotation: Any, name: str) -> Misfit | None:
    """Check the type, then each bound; infinite numbers may be allowed."""
    kind, *notes = get_args(annotation)
    if (
        any(isinstance(note, Infinite) for note in notes)
        and isinstance(value, float)
        and math.isinf(value)
    ):
        return None
    found = misfit(value, kind, name)
    if isinstance(value, Built):  # its bounds are checked when it is built
        return found
    if found is not None:
        whole = (
            found.where == "" and "finite" not in found.expected and "at most" not in found.expected
        )
        return found._replace(expected=words(annotation)) if whole else found
    short = [
        note
        for note in notes
        if isinstance(note, BOUNDS) and value is not None and not note.holds(value)
    ]
    return wrong(value, annotation) if short else None


def of_many(value: Any, annotation: Any, container: Any, name: str) -> Misfit | None:
    """Check a collection or mapping, and each entry; lists and tuples are interchangeable."""
    inner = get_args(annotation)
    if isinstance(value, Built):
        return of_class(value, container, annotation)
    if issubclass(container, Mapping):
        if not isinstance(value, Mapping):
            return wrong(value, annotation)
        return in_mapping(value, inner, name)
    if isinstance(value, str | bytes | Mapping) or not isinstance(
        value, Sequence | set | frozenset
    ):
        return wrong(value, annotation)
    fixed = container is tuple and inner and inner[-1] is not Ellipsis
    if fixed and len(inner) != len(value):
        return wrong(value, annotation)
    kinds = inner if fixed else [inner[0] if inner else Any] * len(value)
    return first(
        found._replace(where=f"[{i}]{found.where}")
        for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
        if (found := misfit(item, kind, name)) is not None
    )


def in_mapping(value: Mapping, inner: tuple, name: str) -> Misfit | None:
    """Check the keys and values of a mapping."""
    key_kind, kind = inner if len(inner) == 2 else (Any, Any)
    for key, item in value.items():
        if misfit(key, key_kind) is not None:
            return Misfit(
                "", f"a dictionary whose keys are each {words(key_kind)}", f"the key {shown(key)}"
            )
        if (found := misfit(item, kind, str(key))) is not None:
            return found._replace(where=f".{key}{found.where}")
    return None


def of_class(value: Any, kind: type, annotation: Any) -> Misfit | None:
    """Check an object, or a placeholder of one, against a class."""
    if isinstance(value, Built):
        return (
            None
            if related(value.kind, kind, isinstance(value.target, type))
            else wrong(value, annotation)
        )
    return None if isinstance(value, kind) else wrong(value, annotation)


def of_protocol(value: Any, protocol: type) -> Misfit | None:
    """Check that an object has the members of a protocol."""
    has = value.kind if isinstance(value, Built) else value
    return None if all(hasattr(has, name) for name in members(protocol)) else wrong(value, protocol)


def members(protocol: type) -> list[str]:
    """List the members of a protocol."""
    own = [
        base
        for base in protocol.__mro__
        if getattr(base, "_is_protocol", False) and base.__name__ != "Protocol"
    ]
    hidden = {"__init__", "__subclasshook__", "__class_getitem__", "__init_subclass__"}
    names = {
        name
        for base in own
        for name in vars(base)
        if callable(vars(base)[name]) or not name.startswith("_")
    }
    return sorted(name for name in names - hidden if not name.startswith("_abc"))


def of_callable(value: Any, annotation: Any) -> Misfit | None:
    """Check the number of arguments of a callable, and its return annotation if there is one."""
    expected, returns = get_args(annotation) or (Ellipsis, Any)
    function = called(value)
    if function is None:
        return wrong(value, annotation)
    signature = signature_of(function)
    if signature is None:
        return None
    if isinstance(expected, list | tuple):
        unbound = isinstance(value, Built) and isinstance(value.target, type)
        try:
            signature.bind(*[None] * (len(expected) + unbound))
        except TypeError:
            return wrong(value, annotation)
    given = signature.return_annotation
    if is_class(returns) and is_class(given):
        kinds = [Tensor if tensor_like(kind) else kind for kind in (given, returns)]
        numeric = kinds[1] is float and kinds[0] in (int, bool)
        if not numeric and not related(kinds[0], kinds[1], False) and not isinstance(value, type):
            return wrong(value, annotation)
    return None


def called(value: Any) -> Any:
    """Return the function that runs when the value is called, or None if it is not callable."""
    if isinstance(value, Built):
        kind = value.kind
        if not isinstance(kind, type) or not any("__call__" in vars(base) for base in kind.__mro__):
            return None
        if not isinstance(value.target, type):
            return len  # nothing is known of its arguments
        return kind.forward if issubclass(kind, nn.Module) else kind.__call__
    if not callable(value):
        return None
    return value.forward if isinstance(value, nn.Module) else value


# --- kinds --------------------------------------------------------------------------------------
def tensor_like(annotation: Any) -> bool:
    """Whether an annotation is Tensor, or a jaxtyping annotation of one."""
    return annotation is Tensor or getattr(annotation, "array_type", None) is Tensor


def is_class(annotation: Any) -> bool:
    """Whether an annotation is a class other than Any and object."""
    return isinstance(annotation, type) and annotation not in (
        Any,
        inspect.Signature.empty,
        type(None),
    )


def is_many(annotation: Any) -> bool:
    """Whether an annotation is of a list, a tuple, a set or a mapping."""
    kind = get_origin(annotation) or annotation
    kinds = (Sequence, Mapping, set, frozenset, Collection)
    return kind in (list, tuple, dict, set, frozenset, *kinds) and kind is not str


def related(given: Any, expected: type, sure: bool) -> bool:
    """Whether an object of one class may be of another; return annotations may be inexact."""
    if not isinstance(given, type):
        return True
    try:
        return issubclass(given, expected) or (not sure and issubclass(expected, given))
    except TypeError:
        return True


def kind_returned(function: Any) -> type | None:
    """Return the class in the return annotation of a function, if there is one."""
    signature = signature_of(function)
    given = None if signature is None else signature.return_annotation
    if tensor_like(given):
        return Tensor
    kind = get_origin(given) or given
    return kind if is_class(kind) and kind not in (types.UnionType, object) else None


# --- what is said -------------------------------------------------------------------------------
def infinite_within(value: Any) -> Misfit | None:
    """Find the first NaN or infinity in a number, or in lists and mappings of plain values."""
    if isinstance(value, Mapping):
        entries: Iterator = ((f".{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        entries = ((f"[{i}]", item) for i, item in enumerate(value))
    else:
        return Misfit("", "a finite number", shown(value)) if not finite(value) else None
    return first(
        found._replace(where=f"{where}{found.where}")
        for where, item in entries
        if (found := infinite_within(item))
    )


def finite(value: Any) -> bool:
    """Whether a number is finite; true of other values."""
    try:
        return not isinstance(value, numbers.Real) or math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def first(found: Iterator[Misfit]) -> Misfit | None:
    """Return the first mismatch, if there is one."""
    return next(found, None)


def wrong(value: Any, annotation: Any) -> Misfit:
    """Make the mismatch of a value of another type."""
    return Misfit("", words(annotation), shown(value))


def shown(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, Built):
        kind = value.target
        return (
            f"what {getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)} builds"
        )
    if value is None or isinstance(value, bool | int | float | str | list | tuple | dict):
        text = " ".join(repr(value).split())
        return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
}


def words(annotation: Any) -> str:
    """Describe an annotation in a few words."""
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if annotation is None or annotation in NAMES:
        return NAMES[annotation or type(None)]
    if origin in UNIONS:
        said = list(dict.fromkeys(words(option) for option in inner))
        return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"
    if origin is Annotated:
        kind, *notes = inner
        bounds = [note.words(kind) for note in notes if isinstance(note, BOUNDS)]
        return f"{words(kind)}, {' and '.join(bounds)}" if bounds else words(kind)
    if origin is Literal:
        return f"one of {', '.join(repr(one) for one in inner)}"
    if tensor_like(annotation):
        return "a tensor"
    if annotation is Callable or origin is Callable:
        expected = inner[0] if inner else ...
        return (
            f"a function of {len(expected)} argument{'s'[: len(expected) != 1]}"
            if isinstance(expected, list)
            else "a function"
        )
    return of_container(origin or annotation, inner)


def of_container(kind: Any, inner: tuple) -> str:
    """Describe a list, a mapping, or an object."""
    if is_many(kind):
        if kind in (dict, Mapping):
            return (
                f"a dictionary whose values are each {words(inner[1])}"
                if len(inner) == 2
                else "a dictionary"
            )
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            return f"a list of {len(inner)} ({', '.join(words(one) for one in inner)})"
        return (
            f"a list whose items are each {words(inner[0])}"
            if inner and inner[0] is not Any
            else "a list"
        )
    if not isinstance(kind, type):
        return "something else"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    example = next((one for one in subclasses(kind) if not inspect.isabstract(one)), None)
    such = f", such as {example.__module__}.{example.__name__}" if example else ""
    return f"{article} {kind.__name__} (a _target_ that builds one{such})"


def subclasses(kind: type) -> Iterator[type]:
    """List the public subclasses that are imported, those of this project first."""
    if kind.__module__.split(".")[0] in ("steer", "rewards", "recipes"):
        found: list[type] = kind.__subclasses__()
        for one in found:
            if not one.__name__.startswith("_") and one.__module__.split(".")[0] in (
                "steer",
                "rewards",
                "recipes",
            ):
                yield one
            yield from subclasses(one)
