"""A check of the gradient of a loss against a finite difference, before a long training.

A backward pass through a forward-mode tangent exists for most layers and is wrong, without an
error, for some (on torch 2.14 that of `nn.LayerNorm` and `nn.InstanceNorm2d` on a CPU). Here the
derivative of the loss along one random direction of the weights is taken twice, by autograd and by
central differences in float64, with the same constants (`steer.training.constants`). It is done on
a copy of the network and of the objective whose weights have been moved a little, since a layer
behind weights that are still zero has no gradient at all.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steer.conditions import pick
from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss
from steer.training.constants import Constants, mapped, tensors

__all__ = ["Comparison", "UncheckedGradient", "WrongGradient", "check_gradient"]

STEPS = (1e-3, 1e-4, 1e-5, 1e-6)  # of the differences, in units of the weights' own size
AGREED = 1e-6  # of the gradient's size: the distance of two differences that are good enough
TOLERANCE = 1e-5  # of the gradient's size; an error exceeds it and ten times the doubt
SHAKEN = 0.1  # of their size, by which weights are moved first
WAYS_OUT = (
    "write it out, as steer.networks.LayerNorm is, or take derivative=steer.training"
    ".FiniteDifference(), or steer.training.AverageLagrangian(), which needs no gradient of a"
    " tangent; check_gradient=False trains all the same"
)
PASSES = {False: "its backward pass", True: "the backward pass through its forward-mode tangent"}

Call = tuple[tuple[Any, ...], dict[str, Any]]


class WrongGradient(ValueError):
    """A gradient that is not that of its loss."""


class UncheckedGradient(ValueError):
    """A gradient that could not be checked, since the copy in float64 raised an exception."""


class Comparison(NamedTuple):
    """A derivative along a random direction, by autograd and by finite differences.

    Attributes:
        gradient: by autograd.
        difference: by differences.
        size: its standard deviation over directions.
        doubt: the distance of two differences.
    """

    gradient: float
    difference: float
    size: float
    doubt: float

    @property
    def error(self) -> float:
        """The distance of gradient and difference, in units of the size."""
        apart = abs(self.gradient - self.difference)
        return apart / self.size if self.size > 0 else float(apart > 0)

    @property
    def wrong(self) -> bool:
        """Whether they disagree by more than the error of the difference."""
        return abs(self.gradient - self.difference) > TOLERANCE * self.size + 10 * self.doubt


def check_gradient(
    objective: Callable[..., Loss],
    flow_map: ResidualMap,
    x1: Tensor,
    cond: Cond = None,
    step: int = 10**6,
    samples: int = 8,
) -> Comparison:
    """Compares the gradient of a training loss with a finite difference, on a few samples.

    Nothing is changed: neither weights, nor what the objective keeps, nor the state of a generator.
    The same batch and weights give the same answer. Errors that depend on the precision or on
    compilation are not found: it runs in float64, without autocast and without compiled code.

    Args:
        objective: of training.
        flow_map: the map to be trained.
        x1: data (B, *shape).
        cond: their conditions.
        step: of training, for objectives that have warm-ups.
        samples: how many of the batch to take.

    Returns:
        The comparison.

    Raises:
        WrongGradient: in one line, which layer disagrees and what to do.
        UncheckedGradient: network or objective could not be copied or run in float64, or have no
            finite gradient there; it names the exception, which is its cause, and what to do.
    """
    x1 = x1[:samples]
    cond = pick(cond, slice(samples))
    device = x1.device if x1.device.type == "cuda" else torch.device("cpu")  # others lack float64
    with calm(device):
        try:
            (objective, flow_map), x1, cond = doubled((objective, flow_map), (x1, cond), device)
            shake([*flow_map.parameters()])
            x0 = torch.randn(x1.shape, generator=_generator(device, 0), device=device)

            def loss() -> Tensor:
                torch.manual_seed(0)  # of dropout
                return objective(flow_map, x0, x1, cond, _generator(device, 1), step).total

            own = objective.parameters() if isinstance(objective, nn.Module) else ()
            both = dict.fromkeys((*flow_map.parameters(), *own))
            found = compare(loss, [p for p in both if p.requires_grad])
        except Exception as error:  # of the user's code
            said = (str(error).splitlines() or [""])[0]
            raise unchecked(f"raised {type(error).__name__}: {said}") from error
        if found is None:
            raise unchecked("have a loss that is not finite or has no gradient")
        if not found.wrong:
            return found
        culprit = layer(flow_map, x0, x1, cond)
    raise WrongGradient(
        f"the gradient of the loss is wrong: {found.gradient:.6g} along a random direction, where a"
        f" finite difference has {found.difference:.6g} (float64, {len(x1)} samples); {culprit};"
        f" {WAYS_OUT}"
    )


def unchecked(what: str) -> UncheckedGradient:
    """Builds the error of a check that could not be made."""
    return UncheckedGradient(
        "the gradient of the loss was not compared with a finite difference: network and objective,"
        f" copied and run in float64, {what}; let them run in float64, or pass check_gradient=False"
        " to train without the check"
    )


def compare(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], agreed: float = AGREED
) -> Comparison | None:
    """Compares the gradient of loss() in the weights, leaves in float64; None if it has none.

    The difference is that of the first step size at which two agree, or of the best of four.
    """
    constants = Constants()
    with constants:
        value = loss()
    if not value.requires_grad or not value.isfinite():
        return None
    gradients = torch.autograd.grad(value, list(weights), allow_unused=True, materialize_grads=True)
    direction = noise_like(weights, seed=2)
    products = [(g * d).flatten() for g, d in zip(gradients, direction, strict=True)]
    start = [w.detach().clone() for w in weights]

    def at(h: float) -> float:
        with torch.no_grad():
            for w, origin, d in zip(weights, start, direction, strict=True):
                w.copy_(origin + h * d)
        with constants:
            return float(loss().detach())

    along = torch.cat(products)
    size = max(float(along.detach().norm()), 1e-12 * abs(float(value.detach())))
    best = (0.0, float("inf"))
    for h in STEPS:
        best = min(best, extrapolated(at, h), key=lambda each: each[1])
        if best[1] < agreed * size:
            break
    put_back(weights, start)
    return Comparison(float(along.detach().sum()), best[0], size, best[1])


def extrapolated(at: Callable[[float], float], h: float) -> tuple[float, float]:
    """Estimates the derivative of `at` at 0 by differences of order 4, and its error."""
    wide, middle, narrow = ((at(k) - at(-k)) / (2 * k) for k in (h, h / 2, h / 4))
    coarse = (4 * middle - wide) / 3
    fine = (4 * narrow - middle) / 3
    return fine, abs(fine - coarse)


# Which layer is wrong


def layer(flow_map: ResidualMap, x0: Tensor, x1: Tensor, cond: Cond) -> str:
    """Describes the innermost module that disagrees with differences on its own."""
    s = torch.linspace(0.1, 0.8, len(x1)).to(x1)
    t = torch.linspace(0.4, 0.9, len(x1)).to(x1)
    x_s = flow_map.schedule.interpolate(x0, x1, s)
    calls = inputs_of(flow_map, lambda: flow_map.average_velocity(x_s, s, t, cond))
    for name, module in sorted(flow_map.named_modules(), key=lambda named: -named[0].count(".")):
        if name not in calls or name == "":
            continue
        for tangent, what in PASSES.items():
            try:
                found = compare_layer(module, *calls[name], tangent)
            except Exception:  # it has no forward mode, or cannot be called on its own
                continue
            if found is not None and found.wrong:
                kind = type(module).__name__
                return f"{kind} ({name}) disagrees on its own by {found.error:.1%}, in {what}"
    return "no layer disagrees on its own, so look for an operation between layers"


def inputs_of(root: nn.Module, run: Callable[[], Any]) -> dict[str, Call]:
    """Records the arguments of each module's first call in run(), by name."""
    calls: dict[str, Call] = {}

    def note(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(name, (args, kwargs))

    hooks = []
    for name, module in root.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(note, name), with_kwargs=True))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def compare_layer(module: nn.Module, args: Any, kwargs: Any, tangent: bool) -> Comparison | None:
    """Compares the gradient of a random sum of a module's output, or tangent, in all leaves."""
    floating = [x for x in tensors((args, kwargs)) if x.is_floating_point()]
    leaves = [x.detach().clone().requires_grad_() for x in floating]
    if not leaves:
        return None
    along = [v.requires_grad_() for v in noise_like(leaves, seed=3)]

    def f(*moved: Tensor) -> Tensor:
        torch.manual_seed(0)
        given = iter(moved)
        own, named = mapped(lambda x: next(given) if x.is_floating_point() else x, (args, kwargs))
        return torch.cat([y.flatten() for y in tensors(module(*own, **named))])

    def loss() -> Tensor:
        y = torch.func.jvp(f, tuple(leaves), tuple(along))[1] if tangent else f(*leaves)
        (weight,) = noise_like([y.detach()], seed=4)
        return (y * weight).sum()

    return compare(loss, [*leaves, *along, *(p for p in module.parameters() if p.requires_grad)])


# Copies and states


@contextmanager
def calm(device: torch.device) -> Iterator[None]:
    """Sets float64, gradients on, no autocast and no compiled code; puts generators back."""
    dtype = torch.get_default_dtype()
    cuda = [device] if device.type == "cuda" else []
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


def doubled(
    parts: Any, data: tuple[Tensor, Cond], device: torch.device
) -> tuple[Any, Tensor, Cond]:
    """Copies modules, with all that they hold, and a batch, to float64."""
    memo: dict[int, Any] = {}
    parts = copy.deepcopy(parts, memo)
    for original, copied in list(memo.items()):
        if original != id(memo) and isinstance(copied, Tensor):  # also what a teacher hides
            copied.data = _wide(copied.data).to(device)
    x1, cond = mapped(lambda x: _wide(x.detach()).to(device), data)
    return parts, x1, cond


@torch.no_grad()
def shake(weights: Sequence[Tensor]) -> None:
    """Moves every weight by a tenth of its size; those that are all zero, by a usual size."""
    for w, d in zip(weights, noise_like(weights, seed=5), strict=True):
        w += (SHAKEN if w.any() else 1.0) * d


def put_back(weights: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    """Puts weights back."""
    with torch.no_grad():
        for w, origin in zip(weights, start, strict=True):
            w.copy_(origin)


def noise_like(weights: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Draws noise of the shape and size of each weight."""
    noise = []
    for k, w in enumerate(weights):
        generator = _generator(w.device, seed + 10 * k)
        drawn = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
        noise.append(size(w) * drawn)
    return noise


def size(w: Tensor) -> float:
    """Computes the root mean square of a weight; a usual one where it is 0, .1 for a vector."""
    own = float(w.detach().square().mean().sqrt()) if w.numel() else 0.0
    return own or (w[0].numel() ** -0.5 if w.ndim > 1 else 0.1)


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
