"""Conditions of samples: the kinds there are, what is done to them by sample, and their readers.

A condition is None, class labels (b,), embeddings (b, ...), a list of b labels or texts, or a
`Condition`, which holds several of these by name. The functions here take every kind, and nothing
else of the project asks which kind it has.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Cond = Any
"""None, or one entry per sample: labels (b,), embeddings (b, ...), b texts, or a Condition."""

CONDITIONS = ("cond", "condition", "label", "labels", "prompt", "prompts", "text", "texts", "y")
"""The names by which a reward may call its condition."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Condition:
    """Conditions of B samples by name: tensors (B, ...) and lists of B texts.

    Condition(tokens=(B, L, E), mask=(B, L), pooled=(B, P), texts=[...]) has its fields as
    attributes. It is indexed by sample, as a tensor is, by a number, a slice or a tensor; a number
    gives a condition of one sample. It cannot be changed.

    Three names have a meaning. `mask` and NAME_mask (B, L) are 1 where there is a token, so that
    conditions of different lengths L can be joined. `texts`, or else `labels`, say which prompt a
    sample has where one is named: to a reward by text or label, and in what tuning keeps for each.

    Args:
        fields: tensors, whose first dimension is the batch, and lists of texts.

    Raises:
        ValueError: no fields, fields of different lengths or of another kind, or a name that is
            taken.
    """

    def __init__(self, **fields: Tensor | Sequence[str]):
        if not fields:
            raise ValueError("a Condition has at least one field, as in Condition(pooled=(B, P))")
        for name, value in fields.items():
            _check_field(name, value)
        sizes = {name: len(value) for name, value in fields.items()}
        if len(set(sizes.values())) > 1:
            got = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"the fields of a Condition have one entry per sample each; got {got}")
        vars(self).update({k: v if isinstance(v, Tensor) else list(v) for k, v in fields.items()})

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields by name."""
        return MappingProxyType(vars(self))

    def __getattr__(self, name: str) -> Any:  # of a name that is no field
        raise AttributeError(f"a Condition of {', '.join(vars(self))} has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"a Condition cannot be changed; make Condition(**cond.fields | {{{name!r}: ...}})"
        )

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def __getitem__(self, indices: int | slice | Tensor | Sequence[int]) -> "Condition":
        if isinstance(indices, int):
            indices = [range(len(self))[indices]]
        return Condition(**{name: pick(value, indices) for name, value in vars(self).items()})

    def __iter__(self) -> Iterator["Condition"]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        parts = [
            f"{name}={str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else f"{name}={value if len(value) < 3 else f'{len(value)} texts'}"
            for name, value in vars(self).items()
        ]
        return f"Condition({', '.join(parts)})"

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """Applies a function to every tensor."""
        return Condition(
            **{k: function(v) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        )

    def to(
        self,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> "Condition":
        """Moves every tensor to a device, and those of floating point to a precision."""

        def moved(value: Tensor) -> Tensor:
            own = dtype if value.is_floating_point() else None
            return value.to(device=device, dtype=own, non_blocking=non_blocking)

        return self.map(moved)

    def pin_memory(self) -> "Condition":
        """Copies every tensor to pinned memory."""
        return self.map(lambda value: value.pin_memory())

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        """Joins conditions of the same fields, one after the other.

        Tokens of different lengths are padded with zeros, and so are their masks.

        Raises:
            ValueError: other fields, or different lengths without a mask.
        """
        return cat(parts)

    def save(self, path: str | Path) -> None:
        """Writes a .safetensors file: tensors, and the texts in its header."""
        tensors = {k: v.detach().cpu() for k, v in vars(self).items() if isinstance(v, Tensor)}
        texts = {k: v for k, v in vars(self).items() if not isinstance(v, Tensor)}
        own = {name: value.contiguous().clone() for name, value in tensors.items()}
        save_file(own, str(path), {"texts": json.dumps(texts), "order": json.dumps([*vars(self)])})

    @classmethod
    def load(cls, path: str | Path) -> "Condition":
        """Reads what `save` wrote. Raises ValueError for another file."""
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            if not {"texts", "order"} <= header.keys():
                raise ValueError(f"{path} holds no Condition; write one by Condition.save(path)")
            fields = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields |= json.loads(header["texts"])
        return cls(**{name: fields[name] for name in json.loads(header["order"])})


torch.serialization.add_safe_globals([Condition])  # checkpoints are read with weights_only=True


def _check_field(name: str, value: Any) -> None:
    """Raises ValueError for a field that a Condition cannot have."""
    if name.startswith("_") or name in dir(Condition):
        raise ValueError(f"a field of a Condition cannot be called {name!r}; choose another name")
    if isinstance(value, Tensor) and value.ndim:
        if is_mask(name) and value.ndim != 2:
            raise ValueError(f"{name} is (B, L), 1 where a token is; got {tuple(value.shape)}")
        return
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"a field of a Condition is a tensor (B, ...) or a list of B texts; {name} is"
            f" {got}: make it one of these"
        )


def is_mask(name: str) -> bool:
    """Whether a field of this name says where tokens are."""
    return name == "mask" or name.endswith("_mask")


# What is done by sample


def check(cond: Cond, samples: int, of: str = "sample") -> None:
    """Checks that a condition has one entry for each sample.

    Args:
        cond: what to check.
        samples: how many there are.
        of: what they are, for the error.

    Raises:
        ValueError: another number of entries, texts and labels together, or a nesting of tensors.
    """
    if cond is None:
        return
    name = "steer.Condition(tokens=..., mask=...)"
    if isinstance(cond, dict):
        raise ValueError(
            "cond is a dict, which does not say that its values go by sample; pass"
            " steer.Condition(**cond)"
        )
    if isinstance(cond, list | tuple):
        kinds = {isinstance(entry, str): entry for entry in cond}
        if len(kinds) > 1:
            raise ValueError(
                f"cond is a list of texts or of labels; got {kinds[True]!r} and"
                f" {kinds[False]!r} together: give one kind"
            )
        if any(isinstance(entry, Tensor | dict | list | tuple) for entry in cond):
            got = type(cond[0]).__name__
            raise ValueError(
                f"cond as a {type(cond).__name__} has a text or a label for each {of}; got a"
                f" {got}: give one tensor, or name several in {name}"
            )
    entries = 0 if isinstance(cond, Tensor) and not cond.ndim else len(cond)
    if entries != samples:
        raise ValueError(f"cond has one entry per {of}, {samples} of them; got {entries}")


def pick(cond: Cond, indices: slice | Tensor | Sequence[int]) -> Cond:
    """Picks the entries at these indices, in that order, or those where a tensor is true."""
    if cond is None:
        return None
    if isinstance(indices, slice):
        return cond[indices]
    if isinstance(cond, list | tuple):
        chosen = torch.as_tensor(indices)
        whether = chosen.dtype == torch.bool
        return [cond[k] for k in (chosen.nonzero()[:, 0] if whether else chosen).tolist()]
    device = cond.device if isinstance(cond, Tensor) else None
    return cond[torch.as_tensor(indices, device=device)]


def for_particles(cond: Cond, particles: int) -> Cond:
    """Repeats the condition of each prompt for its particles, which lie side by side."""
    if cond is None:
        return None
    return pick(cond, torch.arange(len(cond)).repeat_interleave(particles))


def repeat(cond: Cond, times: int) -> Cond:
    """Repeats all the conditions, `times` times over."""
    return None if cond is None else pick(cond, torch.arange(len(cond)).repeat(times))


def to(cond: Cond, device: torch.device | str) -> Cond:
    """Moves what is a tensor to a device."""
    return cond.to(device) if isinstance(cond, Tensor | Condition) else cond


def cat(parts: Sequence[Cond]) -> Cond:
    """Joins conditions of one kind. Raises ValueError for others, as `Condition.cat`."""
    first = parts[0]
    kind = kind_of(first)
    if len({kind_of(part) for part in parts}) > 1:
        got = " and a ".join(dict.fromkeys(type(part).__name__ for part in parts))
        raise ValueError(f"conditions of one kind can be joined; got a {got}: give one kind")
    if kind is Tensor:
        return torch.cat([*parts])
    if kind is list:
        return [entry for part in parts for entry in part]
    if len({frozenset(part.fields) for part in parts}) > 1:
        got = " and of ".join(dict.fromkeys(", ".join(part.fields) for part in parts))
        raise ValueError(
            f"conditions of the same fields can be joined; got those of {got}: give all the same"
        )
    return Condition(**{name: cat(_padded(parts, name)) for name in first.fields})


def kind_of(cond: Cond) -> type:
    """Tensor, list or Condition."""
    return next((k for k in (Tensor, Condition) if isinstance(cond, k)), list)


def _padded(parts: Sequence[Condition], name: str) -> list[Any]:
    """The values of one field, with zeros where others have more tokens."""
    values = [part.fields[name] for part in parts]
    lengths = [v.shape[1] if isinstance(v, Tensor) and v.ndim > 1 else 0 for v in values]
    if len({*lengths}) == 1:
        return values
    masks = [mask for mask in parts[0].fields if is_mask(mask)]
    if not any([part.fields[mask].shape[1] for part in parts] == lengths for mask in masks):
        raise ValueError(
            f"{name} has {min(lengths)} to {max(lengths)} tokens, and without a mask (B, L) of them"
            " none can be added; give mask=, 1 where a token is"
        )
    missing = [(value, max(lengths) - n) for value, n in zip(values, lengths, strict=True)]
    return [torch.cat((v, v.new_zeros(len(v), k, *v.shape[2:])), 1) for v, k in missing]


# The absence of a condition


def null_of(cond: Cond) -> Cond:
    """Builds the absent condition of this kind, as one entry.

    It is label -1, the empty text, and otherwise zero; of a mask, one token, since attention over
    none is not defined.
    """
    if isinstance(cond, Condition):
        absent = {name: null_of(value) for name, value in cond.fields.items()}
        for name in filter(is_mask, absent):
            absent[name][:, :1] = 1
        return Condition(**absent)
    if isinstance(cond, list | tuple):
        return ["" if isinstance(cond[0], str) else -1]
    return cond.new_full((1, *cond.shape[1:]), -1 if is_labels(cond) else 0)


def everywhere(one: Cond, samples: int, device: torch.device) -> Cond:
    """Repeats one condition for all samples, on their device."""
    return pick(to(one, device), [0] * samples)


def single(one: Cond, argument: str) -> Cond:
    """Returns a condition for all samples, given as one entry or as a text.

    Raises:
        ValueError: another number of entries.
    """
    if isinstance(one, str):
        return [one]
    if one is not None and len(one) != 1:
        raise ValueError(f"{argument} is one condition for all samples; got {len(one)} entries")
    return one


def drop(cond: Cond, probability: float, generator: torch.Generator, null: Cond = None) -> Cond:
    """Replaces each sample's condition, with the given probability, by an absent one.

    Args:
        cond: the conditions.
        probability: of each to be replaced.
        generator: the source of randomness, on the device of the conditions.
        null: what replaces them, one entry; that of `null_of` by default.

    Raises:
        ValueError: a null of another kind, or of more tokens than a mask allows for.
    """
    if cond is None or probability == 0:
        return cond
    samples = len(cond)
    dropped = torch.rand(samples, generator=generator, device=generator.device) < probability
    absent = null_of(cond) if null is None else alike(single(null, "null"), cond)
    kept = torch.arange(samples, device=dropped.device)
    return pick(cat((cond, absent)), torch.where(dropped, samples, kept))


def alike(cond: Cond, other: Cond) -> Cond:
    """Moves a condition to the devices and precisions of another one."""
    if isinstance(cond, Tensor) and isinstance(other, Tensor):
        return cond.to(other)
    if isinstance(cond, Condition) and isinstance(other, Condition):
        moved = {k: alike(v, other.fields.get(k)) for k, v in cond.fields.items()}
        return Condition(**moved)
    return cond


# Which prompt a condition is


def is_labels(cond: Cond) -> bool:
    """Whether it is a tensor of class labels, integers (b,)."""
    return (
        isinstance(cond, Tensor)
        and cond.ndim == 1
        and not cond.is_floating_point()
        and cond.dtype != torch.bool
    )


def field(cond: Cond, *names: str) -> Cond:
    """Returns the first of these fields that a Condition has, and any other condition as it is.

    Raises:
        ValueError: a Condition without such a field.
    """
    if not isinstance(cond, Condition):
        return cond
    for name in names:
        if name in cond.fields:
            return cond.fields[name]
    raise ValueError(
        f"expected the field {' or '.join(names)} in a Condition of {', '.join(cond.fields)};"
        f" add it, as in steer.Condition({names[0]}=...)"
    )


def names_of(cond: Cond) -> list[Any] | None:
    """Names the prompt of each sample by its label or text; None for what has neither."""
    if isinstance(cond, Condition):
        known = [cond.fields[name] for name in ("texts", "labels") if name in cond.fields]
        return names_of(known[0]) if known else None
    if isinstance(cond, list | tuple):
        return list(cond)
    return [str(label) for label in cond.tolist()] if is_labels(cond) else None


def prompts_of(cond: Cond, n: int) -> Int[Tensor, "n"]:
    """Numbers the different conditions of n samples."""
    if cond is None:
        return torch.zeros(n, dtype=torch.long)
    if isinstance(cond, Tensor):
        return torch.unique(cond, dim=0, return_inverse=True)[1]
    if isinstance(cond, Condition):
        numbers = [prompts_of(value, n).cpu() for value in cond.fields.values()]
        return prompts_of(torch.stack(numbers, dim=1), n)
    numbers_of = {prompt: k for k, prompt in enumerate(dict.fromkeys(cond))}
    return torch.tensor([numbers_of[prompt] for prompt in cond])


def same(cond: Cond, other: Cond) -> Bool[Tensor, "n m"]:
    """Which of n conditions are which of m others; of two kinds, by label or text."""
    if kind_of(cond) is not kind_of(other):
        mine, theirs = names_of(cond), names_of(other)
        if mine is not None and theirs is not None:
            cond, other = [*map(str, mine)], [*map(str, theirs)]
    number = prompts_of(cat((cond, other)), len(cond) + len(other))
    return number[: len(cond), None] == number[None, len(cond) :]


# What a reward receives


def given_to(argument: str | None, cond: Cond) -> dict[str, Cond]:
    """Builds the arguments by which a reward receives a condition.

    A Condition goes to it whole, unless its argument is called as one of the fields: a reward of
    (x, texts) receives the texts.
    """
    if argument is None:
        return {}
    if isinstance(cond, Condition):
        return {argument: cond.fields.get(argument, cond)}
    return {argument: cond}


def condition_argument(reward: Callable[..., Any]) -> str | None:
    """Name the argument of a reward that receives the condition.

    It is the one called `cond`, or else a second one without a default called one of CONDITIONS.

    Args:
        reward: a function or module, called as reward(x) or reward(x, <argument>=cond).

    Returns:
        The name, or None for a reward of the sample alone, or one without a signature.

    Raises:
        ValueError: a second argument without a default that is no condition, or a reward that takes
            no sample or more arguments than these.
    """
    name = name_of(reward)
    try:
        signature = inspect.signature(reward.forward if isinstance(reward, nn.Module) else reward)
    except ValueError:  # a built-in without a signature
        return None
    required = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in VARIADIC
    ]
    argument = "cond" if "cond" in signature.parameters else next(iter(required[1:]), None)
    if argument not in (None, *CONDITIONS):
        raise ValueError(
            f"reward '{name}': its argument '{argument}' has no value; "
            "give it a default, or call it cond if it is the condition"
        )
    try:
        signature.bind(None, **({argument: None} if argument else {}))
    except TypeError as error:
        raise ValueError(
            f"reward '{name}': expected arguments (x) or (x, cond), got {signature}; change them"
        ) from error
    return argument


def name_of(function: Callable[..., Any]) -> str:
    """Name a callable for an error: a function by its name, an object by its class."""
    return getattr(function, "__name__", None) or type(function).__name__
