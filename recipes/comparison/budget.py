"""How large a method may be for what it may spend: the size is one of its whole numbers, its cost
is found by trying.

A trial runs the method at some size on two samples of one prompt (on one group, if it chooses) and
prices what was counted. The largest size within a budget is searched for by secants, which an
affine cost obeys at once; that this size fits, and that the next does not, are trials as well. A
size that the method refuses counts as the next smaller one.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from recipes.comparison.benchmark import Arena
from recipes.setup.builders import sampler_of
from recipes.setup.config import nearest
from steer.build import resolve
from steer.counting import Evaluations
from steer.samplers import Sampler
from steer.tilt import NonFiniteReward

CANDIDATES = "candidates"
REFUSALS = 16  # so many sizes in a row may be refused
FEW = range(1, REFUSALS + 1)
RULES = 2  # of sizes and of what is kept of a population: what was measured by other rules is measured anew


@dataclass(frozen=True)
class Price:
    """In forwards of the network: its backward, and forward and backward of the reward."""

    backward: float = 2.0
    reward_forward: float = 0.0
    reward_backward: float = 0.0

    def __call__(self, spent: Evaluations) -> float:
        reward = (
            self.reward_forward * spent.reward_forward
            + self.reward_backward * spent.reward_backward
        )
        return spent.forward_equivalents(self.backward) + reward


class Fit(NamedTuple):
    """A size; the noise particles of a call, the samples it returns, and what each sample costs
    that is kept.
    """

    size: int
    drawn: int
    returned: int
    cost: float


class Plan(NamedTuple):
    """What was solved for, the least that a sample costs, the largest size within each budget, or
    why there is none.
    """

    setting: str
    least: float | None
    fits: dict[str, Fit]
    errors: dict[str, str]


def integer_settings(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of the whole numbers that the object of a node, or of one inside it, is
    built with.
    """
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
    """The files of one's own that a node is built from: those of file.py:Name."""
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
        size: what is solved for: CANDIDATES, the dotted name of an integer setting, or None to find
            out.
        candidates: the noise particles of a call, where they are not the size; None for the samples
            of a prompt.
        arena, price: what it is run on, and what that costs.
        most: the largest budget it is run at; None for no bound.

    Raises:
        ValueError: a size that is no integer setting, or a number of candidates below 1.
    """

    node: dict[str, Any]
    size: str | None
    candidates: int | None
    arena: Arena
    price: Price
    most: float | None = None
    trials: dict[int, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = integer_settings(self.node)
        if self.size not in (None, CANDIDATES, *self.settings):
            known = ", ".join([CANDIDATES, *self.settings])
            raise ValueError(
                f"size is one of {known}; got {self.size!r}{nearest(str(self.size), self.settings)}"
            )
        if self.candidates is not None and (
            type(self.candidates) is not int or self.candidates < 1
        ):
            raise ValueError(f"candidates is a whole number, at least 1; got {self.candidates!r}")
        if self.most is not None and (type(self.most) not in (int, float) or not self.most > 0):
            raise ValueError(f"most is the largest budget it is run at, above 0; got {self.most!r}")

    @property
    def said(self) -> dict[str, Any]:
        """What a run of it at some size depends on: what the config says, and what stands in the
        files that it names.
        """
        code = [
            hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in files_of(self.node)
        ]
        return {
            "sampler": self.node,
            "size": self.size,
            "candidates": self.candidates,
            "code": code,
            "rules": RULES,
        }

    def plan(self, budgets: Sequence[float]) -> Plan:
        """The largest size for each budget, or why there is none. The least is None for what cannot
        be run at all.
        """
        try:
            setting, least = self.setting, self.least
        except ValueError as error:
            return Plan("", None, {}, {str(b): str(error) for b in budgets})
        plan = Plan(setting, least.cost, {}, {})
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
        return sampler_of(
            self.node if setting == CANDIDATES else with_setting(self.node, setting, size)
        )

    # --- trials ----------------------------------------------------------------------------------
    @cached_property
    def setting(self) -> str:
        """The name of the size: the candidates of a method that chooses among them, otherwise its
        steps.
        """
        if self.size is not None:
            return self.size
        steps = "steps" if "steps" in self.settings else CANDIDATES
        if (
            self.candidates is None
            and first_taken(lambda k: self.run(steps, k, 2), FEW).returned < 2
        ):
            return CANDIDATES
        if steps == CANDIDATES:
            raise ValueError(
                f"it has no steps; say which size to vary: {', '.join(self.settings) or 'it has none'}"
            )
        return steps

    def run(self, setting: str, size: int, drawn: int) -> Fit:
        """The method at a size, on one group; the cost is per sample that it returns."""
        result = replace(self.arena, prompts=1).draw(self.sampler(setting, size), drawn, 1, "trial")
        return Fit(size, drawn, result.x.shape[1], self.price(result.evaluations))

    def kept(self, fit: Fit) -> Fit:
        """The same with the cost per sample that is kept, where the last group of a prompt returns
        more than are wanted.
        """
        groups = math.ceil(self.arena.particles / fit.returned)
        return fit._replace(cost=fit.cost * groups * fit.returned / self.arena.particles)

    def trial(self, size: int) -> Fit:
        """The same, once for each size, and told of all the samples of a prompt where they are a
        population.
        """
        if size not in self.trials:
            own = size if self.setting == CANDIDATES else self.candidates
            fit = self.run(self.setting, size, own or 2)
            if own is None and fit.returned != fit.drawn:
                raise ValueError(
                    f"it returns {fit.returned} of 2 samples; say candidates=N beside size={self.size}"
                )
            whole = self.arena.particles
            self.trials[size] = self.kept(fit if own else fit._replace(drawn=whole, returned=whole))
        return self.trials[size]

    def taken(self, size: int) -> Fit:
        """The trial of the largest size up to this one that is not refused."""
        return first_taken(self.trial, range(size, max(size - REFUSALS, self.least.size - 1), -1))

    # --- the search ------------------------------------------------------------------------------
    @cached_property
    def least(self) -> Fit:
        """The smallest size."""
        return first_taken(self.trial, FEW)

    @cached_property
    def slope(self) -> float:
        """What one size more costs, at the lower end."""
        for more in (1, REFUSALS):
            ahead = self.taken(self.least.size + more)
            if ahead.cost > self.least.cost:
                return (ahead.cost - self.least.cost) / (ahead.size - self.least.size)
        raise ValueError(f"its cost does not grow with {self.setting}; name another size")

    def largest(self, budget: float) -> Fit:
        """The largest size of a cost up to the budget.

        Raises:
            ValueError: there is none, or a cost that does not grow.
        """
        if self.least.cost > budget:
            raise ValueError(
                f"the smallest, {self.least.size} {self.setting}, costs {self.least.cost:g} evaluations"
            )
        fits, top, over, slope = (
            self.least,
            self.least.size,
            None,
            self.slope,
        )  # up to top, nothing costs more than fits
        for turn in range(1, 64):
            guess = top + max(int((budget - fits.cost) / slope), 1)
            if over is not None:
                guess = (top + over) // 2 if turn % 3 == 0 else min(guess, over - 1)
            try:
                tried = self.taken(guess)
            except NonFiniteReward:
                raise
            except ValueError:  # none so large
                tried = Fit(guess, 0, 0, math.inf)
            if tried.cost <= budget:
                fits, top = tried, guess
            else:
                over, slope = (
                    tried.size,
                    min((tried.cost - fits.cost) / (tried.size - fits.size), 1e9),
                )
            if over is not None and over - top <= 1:
                return fits
        raise ValueError(f"its cost hardly grows with {self.setting}; name another size")


def first_taken(trial: Callable[[int], Fit], sizes: Sequence[int]) -> Fit:
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
