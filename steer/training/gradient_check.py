"""The gradient of a loss against a finite difference, before hours are spent on descending it.

A backward pass through a forward-mode tangent exists for most layers and is wrong, without an error, for some (on torch 2.14
that of `nn.LayerNorm` and `nn.InstanceNorm2d` on a CPU). Here the derivative of the loss along one random direction of the
weights is taken twice, by autograd and by central differences in float64, on a copy of the network and of the objective whose
weights have been shaken, since a layer behind weights that are still zero has no gradient to be wrong.

What autograd takes for constant (a target behind detach() or no_grad()) the differences must hold constant too, or they would
belong to another gradient. So the first evaluation notes every such tensor as it meets one that is learned, and the others are
given the same values again: `Constants`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steer.flow_map import Cond, ResidualMap
from steer.training.base import Objective

STEPS = (1e-3, 1e-4, 1e-5, 1e-6)  # of the differences, in units of the weights' own size
TOLERANCE = 1e-3  # of the gradient's length; beside five times what two steps of the differences disagree by
SHAKEN = 0.1  # of their size, by which weights are moved first
WAYS_OUT = (
    "write that layer out (as steer.networks.LayerNorm is), take derivative=steer.training.FiniteDifference() or an objective"
    " without a gradient through a tangent, such as steer.training.AverageLagrangian(), or train all the same with"
    " check_gradient=False"
)


class WrongGradient(ValueError):
    """A gradient that is not that of its loss."""


class Comparison(NamedTuple):
    """A derivative along a direction by autograd and by differences; the size it has by chance; how far differences are off."""

    gradient: float
    difference: float
    size: float
    doubt: float

    @property
    def error(self) -> float:
        """The distance of the two, in units of the size."""
        return abs(self.gradient - self.difference) / self.size if self.size > 0 else float(self.difference != 0)

    @property
    def wrong(self) -> bool:
        """Whether they disagree by more than differences can be wrong."""
        return abs(self.gradient - self.difference) > TOLERANCE * self.size + 5 * self.doubt


class Constants(TorchFunctionMode):
    """Notes what autograd holds constant in a computation, and holds it constant when the computation is run again.

        constants = Constants()
        with constants: loss = f()
        with constants: again = f()      # with other weights, but the constants of the first time

    Both runs must go through the same operations in the same order. Tensors are constant where gradients are on, they need none,
    and they meet one that does, or enter a forward-mode derivative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Tensor] = []
        self.runs, self.place = 0, 0

    def __enter__(self) -> Any:
        self.runs, self.place = self.runs + 1, 0
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if name == "detach" and _wrapped(args[0]):
            return self.shifted(func(*args, **kwargs))
        everything = list(_tensors((args, kwargs)))
        if name == "_make_dual" or any(_wrapped(x) or x.requires_grad for x in everything):
            if writes(name):
                args = (args[0], *(_mapped(self.same, rest) for rest in args[1:]))
            else:
                args = _mapped(self.same, args)
            kwargs = _mapped(self.same, kwargs)
        return func(*args, **kwargs)

    def same(self, x: Tensor) -> Tensor:
        """A constant as it was in the first run; anything else as it is."""
        return x if _wrapped(x) or x.requires_grad else self.first(x)

    def first(self, x: Tensor) -> Tensor:
        """The constant at this place of the first run."""
        if self.runs == 1:
            self.noted.append(x.detach().clone())
            return x
        self.place += 1
        return self.noted[self.place - 1]

    def shifted(self, x: Tensor) -> Tensor:
        """A constant inside a forward-mode derivative, moved to where it was: its value cannot be exchanged there."""
        inner = x
        while _wrapped(inner):
            inner = torch._C._functorch.get_unwrapped(inner)
        with torch.no_grad():
            moved = self.first(inner) - inner
        return x + moved


def check_gradient(
    objective: Objective, flow_map: ResidualMap, x1: Tensor, cond: Cond = None, step: int = 10**6, samples: int = 8
) -> Comparison | None:
    """Compares the gradient of a training loss with a finite difference, on the first samples of a batch.

    Nothing is changed: neither weights nor what the objective keeps, nor the state of any generator. The same batch and weights
    give the same answer.

    Args:
        objective: of training.
        flow_map: the map to be trained.
        x1: data (B, *shape).
        cond: their conditions.
        step: of training, for objectives that have warm-ups.
        samples: how many of the batch to take.

    Returns:
        The comparison, or None where it could not be made: no copy in float64, or no derivative to compare.

    Raises:
        WrongGradient: in one line, which layer disagrees and what to do.
    """
    x1, cond = x1[:samples], None if cond is None else cond[:samples]
    device = x1.device if x1.device.type in ("cpu", "cuda") else torch.device("cpu")  # others have no float64
    with calm(device):
        try:
            (objective, flow_map), x1, cond = doubled((objective, flow_map), (x1, cond), device)
            shake([*flow_map.parameters(), *objective.parameters()])
            x0 = torch.randn(x1.shape, generator=_generator(device, 0), device=device)

            def loss() -> Tensor:
                torch.manual_seed(0)  # of dropout
                return objective(flow_map, x0, x1, cond, _generator(device, 1), step).total

            learned = [p for p in (*flow_map.parameters(), *objective.parameters()) if p.requires_grad]
            found = compare(loss, list(dict.fromkeys(learned)))
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None  # the training itself will say what is wrong, if it is
        if found is None or not found.wrong:
            return found
        culprit = layer(flow_map, x0, x1, cond)
    raise WrongGradient(
        f"the gradient of the loss is wrong: {found.gradient:.6g} along a random direction, where a finite difference has"
        f" {found.difference:.6g} (float64, {len(x1)} samples); {culprit}; {WAYS_OUT}"
    )


def compare(loss: Callable[[], Tensor], weights: Sequence[Tensor]) -> Comparison | None:
    """The gradient of loss() in the weights, leaves in float64, along a random direction; None if it has none.

    The difference is the best of four step sizes, each the extrapolation of two, and its doubt by how much the next one differs.
    """
    constants = Constants()
    with constants:
        value = loss()
    if not value.requires_grad or not value.isfinite():
        return None
    gradients = torch.autograd.grad(value, list(weights), allow_unused=True, materialize_grads=True)
    direction = [_size(w) * torch.randn(w.shape, generator=_generator(w.device, 2), device=w.device) for w in weights]
    products = [(g * d).sum() for g, d in zip(gradients, direction, strict=True)]
    squares = sum((g * d).square().sum() for g, d in zip(gradients, direction, strict=True))
    start = [w.detach().clone() for w in weights]

    def at(h: float) -> float:
        with torch.no_grad():
            for w, origin, d in zip(weights, start, direction, strict=True):
                w.copy_(origin + h * d)
        with constants:
            return float(loss())

    try:
        difference, doubt = best_of([partial(extrapolated, at, h) for h in STEPS])
    finally:
        at_start(weights, start)
    size = max(float(torch.as_tensor(squares).sqrt()), 1e-12 * abs(float(value)))
    return Comparison(float(sum(products)), difference, size, doubt)


def extrapolated(at: Callable[[float], float], h: float) -> float:
    """The derivative of `at` at 0 from two central differences: error h^4."""
    wide, narrow = ((at(k) - at(-k)) / (2 * k) for k in (h, h / 2))
    return (4 * narrow - wide) / 3


def best_of(differences: Sequence[Callable[[], float]]) -> tuple[float, float]:
    """The first that agrees with the next to 1e-7, else the one that agrees best; and how well."""
    before, best = differences[0](), (0.0, float("inf"))
    for difference in differences[1:]:
        after = difference()
        best = min(best, (before, abs(after - before)), key=lambda each: each[1])
        if best[1] < 1e-7 * abs(before):
            break
        before = after
    return best


# Where it is wrong


def layer(flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond) -> str:
    """In words: the innermost module of the network that disagrees with differences on its own, and how."""
    s, t = torch.linspace(0.1, 0.8, len(x1)).to(x1), torch.linspace(0.4, 0.9, len(x1)).to(x1)
    calls = inputs_of(flow_map, lambda: flow_map.average_velocity(flow_map.schedule.interpolate(x0, x1, s), s, t, cond))
    for name, module in sorted(flow_map.named_modules(), key=lambda named: -named[0].count(".")):
        if name not in calls or name == "":
            continue
        for tangent, what in ((False, "its backward pass"), (True, "the backward pass through its forward-mode tangent")):
            try:
                found = compare_layer(module, *calls[name], tangent)
            except (RuntimeError, TypeError, NotImplementedError):
                continue  # it has no forward mode, or cannot be called alone
            if found is not None and found.wrong:
                return f"{type(module).__name__} ({name}) disagrees on its own by {found.error:.1%}, in {what}"
    return "no layer disagrees on its own, so look for an operation between layers"


def inputs_of(root: nn.Module, run: Callable[[], Any]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """By name of each module, what it is first called with in run()."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(name, (args, kwargs))

    hooks = [m.register_forward_pre_hook(partial(note, name), with_kwargs=True) for name, m in root.named_modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def compare_layer(module: nn.Module, args: Any, kwargs: Any, tangent: bool) -> Comparison | None:
    """The gradient of a random sum of a module's output, or of its tangent, in its weights and floating inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in _tensors((args, kwargs)) if x.is_floating_point()]
    if not leaves:
        return None
    along = [_size(x) * torch.randn(x.shape, generator=_generator(x.device, 3), device=x.device) for x in leaves]

    def f(*moved: Tensor) -> Tensor:
        torch.manual_seed(0)
        given = iter(moved)
        own, named = _mapped(lambda x: next(given) if x.is_floating_point() else x, (args, kwargs))
        parts = [y.flatten() for y in _tensors(module(*own, **named)) if y.is_floating_point()]
        return torch.cat(parts)

    def loss() -> Tensor:
        y = torch.func.jvp(f, tuple(leaves), tuple(along))[1] if tangent else f(*leaves)  # type: ignore[misc]
        return (y * torch.randn(y.shape, generator=_generator(y.device, 4), device=y.device)).sum()

    return compare(loss, [*leaves, *(p for p in module.parameters() if p.requires_grad)])


# Copies and states


@contextmanager
def calm(device: torch.device) -> Iterator[None]:
    """Float64 by default, no autocast, no compiled code, gradients on; and all generators afterwards as before."""
    dtype, cuda = torch.get_default_dtype(), [device] if device.type == "cuda" else []
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.random.fork_rng(cuda),
            torch.autocast(device.type, enabled=False),
            torch.compiler.set_stance("force_eager"),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


def doubled(parts: Any, data: tuple[Tensor, Cond], device: torch.device) -> tuple[Any, Tensor, Cond]:
    """Copies of modules, with all that they hold, and of a batch, in float64."""
    memo: dict[int, Any] = {}
    parts = copy.deepcopy(parts, memo)
    for original, copied in list(memo.items()):
        if original != id(memo) and isinstance(copied, Tensor):  # also those that a teacher hides from torch
            copied.data = _wide(copied.data).to(device)
    x1, cond = _mapped(lambda x: _wide(x.detach()).to(device), data)
    return parts, x1, cond


@torch.no_grad()
def shake(weights: Sequence[Tensor]) -> None:
    """Moves every weight by a tenth of its size, or of that of a usual initial weight where it is zero."""
    for k, w in enumerate(weights):
        w += SHAKEN * _size(w) * torch.randn(w.shape, generator=_generator(w.device, 10 + k), device=w.device)


def at_start(weights: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    """Puts weights back."""
    with torch.no_grad():
        for w, origin in zip(weights, start, strict=True):
            w.copy_(origin)


def _size(w: Tensor) -> float:
    """The root mean square of a weight, or what it usually is: 1 / sqrt(inputs) for a matrix, 1 for a vector."""
    size = float(w.detach().square().mean().sqrt()) if w.numel() else 0.0
    return size or (w[0].numel() ** -0.5 if w.ndim > 1 else 1.0)


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _wrapped(x: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def writes(name: str) -> bool:
    """Whether an operation of that name writes into its first argument."""
    return name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__set__") or (
        name.endswith("_") and not name.endswith("__")
    )


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)


def _mapped(f: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same nesting, with f of every tensor."""
    if isinstance(tree, Tensor):
        return f(tree)
    if isinstance(tree, dict):
        return {key: _mapped(f, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = [_mapped(f, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree
