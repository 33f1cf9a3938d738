"""The price of rewards: how often each was evaluated, and for how many seconds."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipes.evaluation.metrics import Figures
from rewards import FunctionReward, Reward

COUNTED = ("calls", "samples")


@dataclass
class Price:
    """What one reward has cost.

    Attributes:
        calls: of its forward pass.
        samples: in all of them.
        seconds: in all of them, without backward passes.
    """

    calls: int = 0
    samples: int = 0
    seconds: float = 0.0
    started: list[float] = field(default_factory=list, repr=False)

    def begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Before a forward pass."""
        self.started.append(now(inputs[0]))

    def end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """After it."""
        self.calls += 1
        self.samples += len(inputs[0])
        self.seconds += now(inputs[0]) - self.started.pop()


def now(x: Tensor) -> float:
    """The time, once what was asked of the samples' device is done."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


@contextmanager
def priced(rewards: Sequence[Reward]) -> Iterator[dict[str, Price]]:
    """Prices of the rewards, and of those that they are composed of, inside the `with`.

    Yields:
        name -> price: of a function its name, else the class, with a number for a second one; that
        of Decoded is with the decoder. What several rewards share has one price, with all calls.
    """
    prices: dict[str, Price] = {}
    hooks = []
    for module in parts_of(rewards):
        name = module.name if isinstance(module, FunctionReward) else type(module).__name__
        names = [name, *(f"{name} {k}" for k in range(2, len(prices) + 3))]
        price = prices[next(each for each in names if each not in prices)] = Price()
        hooks.append(module.register_forward_pre_hook(price.begin))
        hooks.append(module.register_forward_hook(price.end))
    try:
        yield prices
    finally:
        for hook in hooks:
            hook.remove()


def parts_of(rewards: Sequence[Reward]) -> list[Reward]:
    """Lists rewards and what they are composed of, each once, also where two of them share it."""
    parts = (part for reward in rewards for part in reward.modules())
    return [part for part in dict.fromkeys(parts) if isinstance(part, Reward)]


def figures(prices: dict[str, Price]) -> Figures:
    """Prices for metrics.json."""
    return {
        "price": {name: {"calls": p.calls, "samples": p.samples} for name, p in prices.items()},
        "price_seconds": {name: p.seconds for name, p in prices.items()},
    }


def joined_figures(parts: Sequence[Figures]) -> Figures:
    """The prices of all parts of a run, added up."""
    names = list(dict.fromkeys(name for part in parts for name in part["price"]))
    return {
        "price": {
            name: {key: sum(part["price"][name][key] for part in parts) for key in COUNTED}
            for name in names
        },
        "price_seconds": {
            name: sum(part["price_seconds"][name] for part in parts) for name in names
        },
    }
