"""A dry run: one sample through all parts, so that misfits are reported before the work begins."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recipes.evaluation.metrics import Measure
from recipes.setup.memory import ran_out
from steer.adapters.backbone import JumpOfSteps
from steer.conditions import Cond, for_particles, name_of, pick
from steer.flow_map import FlowMap
from steer.networks.shapes import WrongShape
from steer.tilt import Tilt

ROUNDING = 0.01

# raised by networks and rewards at inputs of the wrong shape or kind
MISFITS = (WrongShape, RuntimeError, TypeError, IndexError, KeyError, AttributeError)


@torch.no_grad()
def dry_run(flow_map: FlowMap, x0: Tensor, measure: Measure) -> None:
    """Takes the first sample of x0 (P, N, *shape) to data, then to the rewards and the judge.

    A second sample, where there is one, shows whether rewards look at batch mates.

    Raises:
        ValueError: naming the part that cannot take it, or that looks at batch mates.
    """
    shape = tuple(x0.shape[2:])
    x = x0.flatten(0, 1)[:2]
    conds = pick(for_particles(measure.cond, x0.shape[1]), slice(2))
    cond = pick(conds, slice(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JumpOfSteps)  # nobody has asked for a jump yet
        pair = attempt("model: the model", shape, lambda: flow_map.lookahead(x, 0.0, conds))
    x1 = pair[:1]
    heldout = [("heldout", reward) for reward in measure.heldout]
    for key, reward in [("reward", measure.reward), *heldout]:
        if reward is not None:
            tilt = Tilt(reward, on_nonfinite="reject" if measure.reject_nan else "raise")
            name = f"{key}: the reward {name_of(reward)}"
            attempt(name, shape, partial(tilt, x1, cond, 0.0))
            if getattr(reward, "independent", True):
                refuse_batch_mates(name, tilt, pair, conds)
    check_decode(measure.decode, x1)
    if measure.judge is not None:
        judge = measure.judge
        attempt("judge: the judge", shape, lambda: judge.features(measure.decoded(x1)))


def refuse_batch_mates(name: str, tilt: Tilt, x: Tensor, cond: Cond) -> None:
    """Raises ValueError if a reward of samples depends on which others are in their batch.

    Each is evaluated alone, then all together, and again together: a reward that is random cannot
    be judged. A percent of the largest value is left to the rounding of other batch sizes.

    Args:
        name: of the reward, for the error.
        tilt: the reward at scale 1.
        x: samples (B, *shape).
        cond: their conditions.
    """
    if len(x) < 2:
        return
    alone = torch.cat([tilt(x[k : k + 1], pick(cond, slice(k, k + 1)), 1.0) for k in range(len(x))])
    together = tilt(x, cond, 1.0)
    if alike(alone, together) or not alike(together, tilt(x, cond, 1.0)):
        return
    differs = torch.where(alone == together, 0.0, (alone - together).abs())
    k = int(torch.where(differs.isfinite(), differs, torch.inf).argmax())
    raise ValueError(
        f"{name} looks at batch mates: a sample's reward is {float(alone[k]):.4g} alone and"
        f" {float(together[k]):.4g} in a batch of {len(x)}; let each depend on its own sample alone"
        " (means over dimensions 1, 2, 3, not over 0)"
    )


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether rewards are the same up to a percent of the largest; -inf only where both are."""
    finite = one.isfinite() & other.isfinite()
    largest = torch.where(finite, torch.maximum(one.abs(), other.abs()), 0.0).max()
    near = (one - other).abs() <= ROUNDING * largest
    return bool(torch.where(finite, near, one == other).all())


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
        if ran_out(error):
            raise
        reason = (str(error) or "no message").splitlines()[0]
        raise ValueError(
            f"{what} cannot take samples of shape {shape}: {type(error).__name__}: {reason}"
        ) from error
    except ValueError as error:
        if "label" in str(error) or "takes no condition" in str(error):
            raise ValueError(
                f"condition.labels or prompt, for {what.partition(': ')[0]}: {error}"
            ) from error
        raise
