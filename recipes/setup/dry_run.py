"""A dry run: one sample through all parts, so that misfits are reported before the work begins."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recipes.evaluation.metrics import Measure
from steer.conditions import name_of, pick
from steer.flow_map import FlowMap
from steer.networks.shapes import WrongShape
from steer.tilt import Tilt

# raised by networks and rewards at inputs of the wrong shape or kind
MISFITS = (WrongShape, RuntimeError, TypeError, IndexError, KeyError, AttributeError)


@torch.no_grad()
def dry_run(flow_map: FlowMap, x0: Tensor, measure: Measure) -> None:
    """Takes the first sample of x0 (P, N, *shape) to data, then to the rewards and the judge.

    Raises:
        ValueError: naming the part that cannot take it.
    """
    x = x0[:1, 0]
    cond = pick(measure.cond, slice(1))
    shape = tuple(x.shape[1:])
    x1 = attempt("model: the model", shape, lambda: flow_map.lookahead(x, 0.0, cond))
    heldout = [("heldout", reward) for reward in measure.heldout]
    for key, reward in [("reward", measure.reward), *heldout]:
        if reward is not None:
            tilt = Tilt(reward, on_nonfinite="reject" if measure.reject_nan else "raise")
            name = f"{key}: the reward {name_of(reward)}"
            attempt(name, shape, partial(tilt, x1, cond, 0.0))
    check_decode(measure.decode, x1)
    if measure.judge is not None:
        judge = measure.judge
        attempt("judge: the judge", shape, lambda: judge.features(measure.decoded(x1)))


def check_decode(decode: Callable[[Tensor], Tensor] | None, x1: Tensor) -> None:
    """Decodes a sample. Raises ValueError if that cannot be done, or gives no tensor."""
    if decode is None:
        return
    images = attempt("reward_decode: it", tuple(x1.shape[1:]), lambda: decode(x1))
    if not isinstance(images, Tensor) or len(images) != len(x1):
        raise ValueError(
            "reward_decode: it gives a tensor of as many images as samples; got a"
            f" {type(images).__name__}"
        )


def attempt(what: str, shape: tuple[int, ...], call: Callable[[], Any]) -> Any:
    """The call's result, or one line that says what could not take samples of that shape."""
    try:
        return call()
    except MISFITS as error:
        reason = (str(error) or "no message").splitlines()[0]
        raise ValueError(
            f"{what} cannot take samples of shape {shape}: {type(error).__name__}: {reason}"
        ) from error
    except ValueError as error:
        if "label" in str(error) or "takes no condition" in str(error):
            raise ValueError(f"condition.labels, for {what.partition(': ')[0]}: {error}") from error
        raise
