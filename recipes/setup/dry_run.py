"""A dry run: one sample through all parts, so that misfits are reported before the work begins."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from recipes.evaluation.metrics import Measure
from recipes.setup.memory import ran_out
from steer.adapters.backbone import JumpOfSteps
from steer.conditions import Cond, for_particles, name_of, pick
from steer.flow_map import FlowMap
from steer.networks.shapes import WrongShape
from steer.tilt import Tilt

LAST_DIGITS = 1e-5  # of rewards, over the largest of them
ROUNDING = 0.01
REPEATS = 8  # evaluations of one batch, to see whether a reward is random
SEVERAL = 4  # times their spread, which is more than chance

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
                refuse_batch_mates(name, reward, pair, conds)
    check_decode(measure.decode, x1)
    if measure.judge is not None:
        judge = measure.judge
        attempt("judge: the judge", shape, lambda: judge.features(measure.decoded(x1)))


def refuse_batch_mates(name: str, reward: Callable[..., Tensor], x: Tensor, cond: Cond) -> None:
    """Raises ValueError if a reward of samples depends on which others are in their batch.

    Each sample is evaluated in a batch of the same size with other samples beside it, where its
    reward is the same to the last digits, and alone, where batches of another size round otherwise
    (`rounding_of`). A difference counts if it is larger than what the same batches differ by when
    they are evaluated again and again, since a reward that is random differs from itself.

    Args:
        name: of the reward, for the error.
        reward: of samples.
        x: samples (B, *shape).
        cond: their conditions.
    """
    if len(x) < 2:
        return
    tilt = Tilt(reward, on_nonfinite="reject")  # what is put beside a sample may have no reward

    def together() -> Tensor:
        return tilt(x, cond, 1.0)

    def beside_others() -> Tensor:
        rewards = [tilt(torch.lerp(x, x[k : k + 1], 0.5), cond, 1.0)[k] for k in range(len(x))]
        return torch.stack(rewards)

    def alone() -> Tensor:
        each = [slice(k, k + 1) for k in range(len(x))]
        return torch.cat([tilt(x[one], pick(cond, one), 1.0) for one in each])

    seen = together()
    trials: list[tuple[str, Callable[[], Tensor], float]] = [
        ("beside other samples", beside_others, LAST_DIGITS),
        ("alone", alone, rounding_of(reward)),
    ]
    for how, evaluate, rounding in trials:
        other = evaluate()
        differs = differences(seen, other)
        if not (differs > rounding).any():
            continue
        own = spread(together, seen) + spread(evaluate, other)
        if (wrong := differs > torch.maximum(SEVERAL * own, differs.new_tensor(rounding))).any():
            k = int(torch.where(wrong, differs, -1.0).argmax())
            raise ValueError(
                f"{name} looks at batch mates: a sample's reward is {float(other[k]):.8g} {how} and"
                f" {float(seen[k]):.8g} in a batch of {len(x)}; let each depend on its own sample"
                " alone (means over dimensions 1, 2, 3, not over 0)"
            )


def differences(one: Tensor, other: Tensor) -> Tensor:
    """How much rewards differ, over the largest of them; inf where only one is finite."""
    finite = one.isfinite() & other.isfinite()
    largest = torch.where(finite, torch.maximum(one.abs(), other.abs()), 0.0).max()
    apart = torch.where(one == other, 0.0, (one - other).abs())
    return torch.where(finite, apart / largest.clamp_min(1e-300), apart)


def spread(evaluate: Callable[[], Tensor], first: Tensor) -> Tensor:
    """The largest difference of repeated evaluations from a first one, for each sample."""
    return torch.stack([differences(first, evaluate()) for _ in range(REPEATS)]).amax(0)


def rounding_of(reward: Any) -> float:
    """What rewards may differ by in batches of another size, over the largest of them.

    The square root of the precision of the reward's weights, and at least a percent: modules may
    compute in less than they say, as under autocast.
    """
    tensors = [*reward.parameters(), *reward.buffers()] if isinstance(reward, nn.Module) else []
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return max(ROUNDING, *(torch.finfo(kind).eps ** 0.5 for kind in kinds), 0.0)


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
