"""The size of a method within a budget: one of its integer settings, its cost found by trial runs.

A trial runs the method at some size on two samples of one prompt (on one group, if it chooses among
candidates) and prices the evaluations counted. The largest size within a budget is searched for by
secants, exact at once for an affine cost; that this size fits, and that the next does not, are
trials as well. A size that the method refuses counts as the next smaller one.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from recipes.comparison.benchmark import Benchmark
from recipes.setup.builders import sampler_of
from steer.build import resolve
from steer.counting import Evaluations
from steer.nearest import suggestion
from steer.samplers import Sampler
from steer.tilt import NonFiniteReward

CANDIDATES = "candidates"
REFUSALS = 16  # so many sizes in a row may be refused
SMALL = range(1, REFUSALS + 1)
RULES = 2  # version of how sizes and kept samples are chosen; others are measured anew


@dataclass(frozen=True)
class Price:
    """price(evaluations) -> their cost, in forward passes of the network.

    Args:
        backward: of one backward pass of the network.
        reward_forward: of one evaluation of the reward.
        reward_backward: of one gradient of the reward.
    """

    backward: float = 2.0
    reward_forward: float = 0.0
    reward_backward: float = 0.0

    def __call__(self, spent: Evaluations) -> float:
        forward = self.reward_forward * spent.reward_forward
        reward = forward + self.reward_backward * spent.reward_backward
        return spent.forward_equivalents(self.backward) + reward


class Fit(NamedTuple):
    """A trial of one size.

    Attributes:
        size: the value of the setting.
        drawn: noise particles of a call.
        returned: samples that a call returns.
        cost: per kept sample.
    """

    size: int
    drawn: int
    returned: int
    cost: float


class Plan(NamedTuple):
    """The sizes of a method for all budgets.

    Attributes:
        setting: the name of the integer setting that was varied.
        least: the cost of the smallest size; None where the method cannot be run.
        fits: the largest size within each budget, by str(budget).
        errors: why there is none, likewise.
    """

    setting: str
    least: float | None
    fits: dict[str, Fit]
    errors: dict[str, str]


def integer_settings(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of the integer arguments of a node's object, and of those inside it."""
    if not isinstance(node, dict) or "_target_" not in node:
        return []
    names = []
    for name, parameter in inspect.signature(resolve(node["_target_"])).parameters.items():
        value = node.get(name, parameter.default)
        if is_whole(parameter.annotation) or type(value) is int:
            names.append(prefix + name)
        names += integer_settings(value, f"{prefix}{name}.")
    return names


def is_whole(annotation: Any) -> bool:
    """Whether an annotation is of a whole number, bounded or not."""
    return annotation in (int, "int") or getattr(annotation, "__origin__", None) is int


def files_of(node: Any) -> list[str]:
    """The user's files that a node is built from: the paths of its targets file.py:Name."""
    if isinstance(node, dict):
        return [path for value in node.values() for path in files_of(value)]
    path, colon, _ = node.rpartition(":") if isinstance(node, str) else ("", "", "")
    return [path] if colon and path.endswith(".py") and Path(path).is_file() else []


def with_setting(node: dict[str, Any], name: str, value: int) -> dict[str, Any]:
    """The node with that number under a dotted name."""
    head, _, rest = name.partition(".")
    return {**node, head: with_setting(node[head], rest, value) if rest else value}


@dataclass
class Sizer:
    """The sizes of one method.

    Args:
        node: of its sampler.
        size: the setting that is varied: CANDIDATES, the dotted name of an integer setting, or None
            to find out.
        candidates: the noise particles of a call, where they are not the size; None for the samples
            of a prompt.
        benchmark: what it is run on.
        price: of its evaluations.
        most: the largest budget it is run at; None for no bound.

    Raises:
        ValueError: a size that is no integer setting, or a number of candidates below 1.
    """

    node: dict[str, Any]
    size: str | None
    candidates: int | None
    benchmark: Benchmark
    price: Price
    most: float | None = None
    trials: dict[int, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = integer_settings(self.node)
        if self.size not in (None, CANDIDATES, *self.settings):
            known = ", ".join([CANDIDATES, *self.settings])
            near = suggestion(str(self.size), self.settings)
            raise ValueError(f"size is one of {known}; got {self.size!r}{near}")
        known_count = type(self.candidates) is int and self.candidates >= 1
        if self.candidates is not None and not known_count:
            raise ValueError(f"candidates is a whole number, at least 1; got {self.candidates!r}")
        if self.most is not None and (type(self.most) not in (int, float) or not self.most > 0):
            raise ValueError(f"most is the largest budget it is run at, above 0; got {self.most!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a result at some size depends on, the contents of the user's files included."""
        contents = [Path(path).read_bytes() for path in files_of(self.node)]
        return {
            "sampler": self.node,
            "size": self.size,
            "candidates": self.candidates,
            "code": [hashlib.sha256(content).hexdigest()[:16] for content in contents],
            "rules": RULES,
        }

    def plan(self, budgets: Sequence[float]) -> Plan:
        """The largest size for each budget, or why there is none."""
        try:
            plan = Plan(self.setting, self.least.cost, {}, {})
        except ValueError as error:
            return Plan("", None, {}, {str(b): str(error) for b in budgets})
        for b in budgets:
            try:
                if self.most is not None and b > self.most:
                    raise ValueError(f"not run above most={self.most:g}")
                plan.fits[str(b)] = self.largest(b)
            except ValueError as error:
                plan.errors[str(b)] = str(error)
        return plan

    def sampler(self, setting: str, size: int) -> Sampler:
        """The method at a size."""
        chosen = setting == CANDIDATES
        return sampler_of(self.node if chosen else with_setting(self.node, setting, size))

    # --- trials ----------------------------------------------------------------------------------
    @cached_property
    def setting(self) -> str:
        """The setting that is varied.

        The candidates of a method that chooses among them, otherwise its steps.
        """
        if self.size is not None:
            return self.size
        steps = "steps" if "steps" in self.settings else CANDIDATES
        if self.candidates is None and self.chooses(steps):
            return CANDIDATES
        if steps == CANDIDATES:
            sizes = ", ".join(self.settings) or "it has none"
            raise ValueError(f"it has no steps; set its size to the setting to vary: {sizes}")
        return steps

    def chooses(self, setting: str) -> bool:
        """Whether the method returns one of two candidates."""
        return first_accepted(lambda size: self.run(setting, size, 2), SMALL).returned < 2

    def run(self, setting: str, size: int, drawn: int) -> Fit:
        """The method at a size, on one group; the cost is per sample that it returns."""
        one_prompt = replace(self.benchmark, prompts=1)
        result = one_prompt.draw(self.sampler(setting, size), drawn, 1, "trial")
        return Fit(size, drawn, result.x.shape[1], self.price(result.evaluations))

    def per_kept_sample(self, fit: Fit) -> Fit:
        """The same with its cost per kept sample.

        The last group of a prompt may return more samples than are wanted.
        """
        groups = math.ceil(self.benchmark.particles / fit.returned)
        return fit._replace(cost=fit.cost * groups * fit.returned / self.benchmark.particles)

    def trial(self, size: int) -> Fit:
        """The method at a size, run once, as it will be for all samples of a prompt."""
        if size not in self.trials:
            own = size if self.setting == CANDIDATES else self.candidates
            fit = self.run(self.setting, size, own or 2)
            if own is None:
                if fit.returned != fit.drawn:
                    raise ValueError(
                        f"it returns {fit.returned} of 2 samples; "
                        f"give candidates=N beside size={self.size}"
                    )
                population = self.benchmark.particles
                fit = fit._replace(drawn=population, returned=population)
            self.trials[size] = self.per_kept_sample(fit)
        return self.trials[size]

    def accepted(self, size: int) -> Fit:
        """The trial of the largest size up to this one that is not refused."""
        lowest = max(size - REFUSALS, self.least.size - 1)
        return first_accepted(self.trial, range(size, lowest, -1))

    # --- the search ------------------------------------------------------------------------------
    @cached_property
    def least(self) -> Fit:
        """The smallest size."""
        return first_accepted(self.trial, SMALL)

    @cached_property
    def slope(self) -> float:
        """The cost of one size more, at the lower end."""
        for more in (1, REFUSALS):
            ahead = self.accepted(self.least.size + more)
            if ahead.cost > self.least.cost:
                return (ahead.cost - self.least.cost) / (ahead.size - self.least.size)
        raise ValueError(f"its cost does not grow with {self.setting}; name another size")

    def largest(self, budget: float) -> Fit:
        """The largest size of a cost up to the budget.

        Raises:
            ValueError: there is none, or a cost that does not grow.
        """
        if self.least.cost > budget:
            smallest = f"{self.least.size} {self.setting}"
            raise ValueError(f"the smallest, {smallest}, costs {self.least.cost:g} evaluations")
        fits = self.least
        top = self.least.size  # up to here, nothing costs more than `fits`
        over: int | None = None  # the smallest size known to cost too much
        slope = self.slope
        for turn in range(1, 64):
            guess = top + max(int((budget - fits.cost) / slope), 1)
            if over is not None:
                guess = (top + over) // 2 if turn % 3 == 0 else min(guess, over - 1)
            tried = self.tried(guess)
            if tried.cost <= budget:
                fits = tried
                top = guess
            else:
                slope = min((tried.cost - fits.cost) / (tried.size - fits.size), 1e9)
                over = tried.size
            if over is not None and over - top <= 1:
                return fits
        raise ValueError(f"its cost hardly grows with {self.setting}; name another size")

    def tried(self, size: int) -> Fit:
        """The trial of the largest accepted size up to this one, of infinite cost if none is."""
        try:
            return self.accepted(size)
        except NonFiniteReward:
            raise
        except ValueError:
            return Fit(size, 0, 0, math.inf)


def first_accepted(trial: Callable[[int], Fit], sizes: Sequence[int]) -> Fit:
    """The trial of the first size that is not refused; raises the first refusal if all are."""
    refusals = []
    for size in sizes:
        try:
            return trial(size)
        except NonFiniteReward:
            raise
        except ValueError as refusal:
            refusals.append(refusal)
    raise refusals[0]
