"""Derivatives of a network along a direction: forward mode, or finite differences.

    derivative(f, primals, tangents) -> (f(primals), d/dh f(primals + h tangents) at h = 0).

Forward mode is exact; a difference serves networks that have no forward-mode rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from steer import counting
from steer.training.base import PairObjective

__all__ = ["Derivative", "FiniteDifference", "ForwardMode"]

Function = Callable[..., Tensor]
NO_RULE = ("forward AD", "forward-mode", "jvp", "vmap")  # words of torch's errors


class Derivative(ABC):
    """f(primals) and its derivative along the tangents, both differentiable in f's weights."""

    @abstractmethod
    def __call__(
        self, f: Function, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Computes value and derivative, each of the shape of f's result."""


class SameMasks:
    """A context in which torch's own generators, which dropout draws from, start where they stood.

    Every `with` puts them back to their state when this was made, for evaluations whose difference
    counts: with masks of their own it would be the masks' difference.

    Args:
        x: a tensor on the device of the network.
    """

    def __init__(self, x: Tensor):
        self.device = x.device if x.device.type == "cuda" else None
        self.state = torch.get_rng_state()
        self.cuda_state = torch.cuda.get_rng_state(self.device) if self.device else None

    def __enter__(self) -> None:
        torch.set_rng_state(self.state)
        if self.cuda_state is not None and self.device is not None:
            torch.cuda.set_rng_state(self.cuda_state, self.device)

    def __exit__(self, *problem: object) -> None:
        return None


class ForwardMode(Derivative):
    """`torch.func.jvp`: exact, at the cost of about two forwards.

    Raises:
        ValueError: a layer has no forward-mode rule; it is named.
    """

    def __call__(
        self, f: Function, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        try:
            with counting.count() as inside:
                value, tangent = torch.func.jvp(f, primals, tangents)  # type: ignore[misc]
        except (RuntimeError, NotImplementedError) as error:
            if not any(word in str(error) for word in NO_RULE):
                raise
            layer = failing_layer(f, primals, tangents)
            raise ValueError(
                f"{layer} cannot be differentiated in forward mode ({str(error).splitlines()[0]});"
                " use derivative=steer.training.FiniteDifference(), or steer.training.Semigroup(),"
                " which takes none"
            ) from error
        return counting.tangent(inside, value, tangent)


class FiniteDifference(Derivative):
    """(f(z + h v) - f(z - h v)) / 2h, at the cost of two more forwards.

    The error is of order h^2 in exact arithmetic. It is computed in the precision of the network,
    whose rounding it divides by h: keep h above .001 in float32, and do not use it under bfloat16.
    With h = .005 it is the derivative of TiM (Wang et al. 2025, arXiv 2509.04394).

    Args:
        h: half the distance of the two points, in units of time.

    Raises:
        ValueError: h that is not positive.
    """

    def __init__(self, h: float = 0.005):
        if not h > 0:
            raise ValueError(f"FiniteDifference needs h > 0; got h={h}")
        self.h = h

    def __call__(
        self, f: Function, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        masks = SameMasks(primals[0])
        values = []
        for h in (0.0, self.h, -self.h):
            with masks:
                values.append(f(*(z + h * v for z, v in zip(primals, tangents, strict=True))))
        value, ahead, behind = values
        return value, (ahead - behind) / (2 * self.h)


class Differential(PairObjective):
    """An objective whose residual holds a derivative of the network.

    Args:
        derivative: how it is taken; forward mode by default.
    """

    def __init__(self, derivative: Derivative | None = None):
        self.derivative = derivative or ForwardMode()


def failing_layer(f: Function, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> str:
    """Finds the class of the innermost module inside which the jvp of f fails.

    As far as modules can tell: an operation outside all of them is "the network".
    """
    open_calls: list[nn.Module] = []
    enter = nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: open_calls.append(module)
    )
    leave = nn.modules.module.register_module_forward_hook(lambda *_: open_calls.__delitem__(-1))
    try:
        torch.func.jvp(f, primals, tangents)
    except (RuntimeError, NotImplementedError):
        pass
    finally:
        enter.remove()
        leave.remove()
    return type(open_calls[-1]).__name__ if open_calls else "the network"
