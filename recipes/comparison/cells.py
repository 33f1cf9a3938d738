"""The cells of a comparison, a method at a budget with a seed each: measured, kept as JSON, and
averaged.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recipes.comparison.budget import Plan, Sizer
from recipes.evaluation.closed_form import ClosedForm
from recipes.evaluation.metrics import Figures, Measure
from recipes.sample import own
from steer.counting import Evaluations
from steer.data.stream import keyed_generator
from steer.flow_map import pick
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from steer.resampling import effective_sample_size
from steer.samplers import Result

ROUNDING = 1e-12
LINES, DRAWS = (
    32,
    4096,
)  # of the distance to the law: lines, and exact draws to hold the samples against
BY_MEASURE = ("reward_mean", "heldout_reward_mean", "judge_accuracy", "diversity")


@dataclass(frozen=True)
class Scales:
    """scales(result) -> figures, a list over the prompts each.

    Args:
        measure: of reward, held-out reward, judge's accuracy and diversity.
        exact: the law aimed at, where it is known.
    """

    measure: Measure
    exact: ClosedForm | None

    def __call__(self, result: Result) -> Figures:
        rows = [self.of_prompt(result, p) for p in range(len(result.x))]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def of_prompt(self, result: Result, p: int) -> Figures:
        """By the weights of the samples; those of `BY_MEASURE` without them as well."""
        measure = replace(self.measure, cond=pick(self.measure.cond, [p]))
        one = Result(result.x[p : p + 1], result.log_w[p : p + 1], None)
        weighted, plain = measure(one), measure(replace(one, log_w=torch.zeros_like(one.log_w)))
        return {
            **{name: weighted[name] for name in BY_MEASURE},
            **{f"{name}_unweighted": plain[name] for name in BY_MEASURE},
            "ess": float(effective_sample_size(one.log_w)[0]),
            **({} if self.exact is None else self.of_law(self.exact, one, result.log_z, p)),
        }

    def of_law(self, exact: ClosedForm, one: Result, log_z: Tensor | None, p: int) -> Figures:
        """How far from the law aimed at: the sliced Wasserstein distance W_1, and the error of log
        Z.
        """
        error = torch.nan if log_z is None else float(log_z[p]) - exact.log_z
        distance = sliced_wasserstein(one.x[0], self.truth, self.lines, 1.0, one.log_w[0])
        return {"law_distance": float(distance), "log_z_error": error}

    @cached_property
    def truth(self) -> Tensor:
        """Exact draws of the law, (DRAWS, d)."""
        assert self.exact is not None
        return self.exact.draws(DRAWS)

    @cached_property
    def lines(self) -> Tensor:
        """Directions along which samples are compared to them."""
        return random_directions(LINES, self.truth.shape[1], keyed_generator("lines")).to(
            self.truth.device
        )

    def of_draws(self, particles: int, repeats: int = 24) -> Figures | None:
        """The figures of so many exact draws of the law: what chance leaves of a perfect method."""
        if self.exact is None:
            return None
        law = self.exact.law
        x = law.sample(
            repeats * particles, keyed_generator("draws", device=law.means.device)
        ).unflatten(0, (repeats, -1))
        cells = [
            self(
                Result(one[None], one.new_zeros(1, particles), one.new_full((1,), self.exact.log_z))
            )
            for one in x
        ]
        return over_seeds(cells)


# --- measured once, and kept --------------------------------------------------------------------
def cell(
    path: Path,
    method: Sizer,
    plan: Plan,
    budget: float,
    key: Sequence[str],
    scales: Scales,
    keep_samples: bool,
) -> Figures:
    """What came of a method, measured or as it was kept; or {"error": why}, if it could not do what
    it was asked.

    Args:
        path: of the cell's JSON; samples are kept beside it.
        method, plan, budget: who, and how large.
        key: of all its chance.
        scales: what to measure.
        keep_samples: whether to.
    """
    if path.exists():
        return read(path)
    fit, n, start = plan.fits[str(budget)], method.arena.particles, time.perf_counter()
    try:
        sampler, groups = method.sampler(plan.setting, fit.size), math.ceil(n / fit.returned)
        result = method.arena.draw(sampler, fit.drawn, groups, *key, keep=n)
        seconds = time.perf_counter() - start
        measured = {
            "evaluations": asdict(result.evaluations),
            "seconds": seconds,
            "figures": scales(result),
        }
    except ValueError as error:
        return {"error": str(error)}  # not kept: a run that is resumed tries again
    if keep_samples:
        save_file(
            {"x": own(result.x), "log_w": own(result.log_w)}, path.with_suffix(".safetensors")
        )
    write(path, measured)
    return measured


def read(path: Path) -> Any:
    """The JSON at a path."""
    return json.loads(path.read_text())


def write(path: Path, content: Any) -> None:
    """JSON that is there whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=1))
    os.replace(scratch, path)


# --- averaged -----------------------------------------------------------------------------------
def average_row(method: Sizer, plan: Plan, budget: float, cells: Sequence[Figures]) -> Figures:
    """A method at a budget, over all seeds; or {"error": why} there is nothing to average."""
    if (error := plan.errors.get(str(budget))) is not None:
        return {"error": error}
    if errors := [cell["error"] for cell in cells if "error" in cell]:
        return {"error": errors[0]}
    size, spent = plan.fits[str(budget)].size, [cell["evaluations"] for cell in cells]
    return {
        "claim": method.sampler(plan.setting, size).claim,
        "setting": plan.setting,
        "size": size,
        "spent": fmean(method.price(Evaluations(**each)) for each in spent),
        "evaluations": {name: fmean(each[name] for each in spent) for name in spent[0]},
        **over_seeds([cell["figures"] for cell in cells]),
        "seconds": fmean(cell["seconds"] for cell in cells),
    }


def over_seeds(cells: Sequence[Figures]) -> Figures:
    """The mean of each figure over seeds and prompts, and its standard error over seeds, the
    prompts taken as given.

    The cells of a prompt differ by chance alone, and those of different prompts are independent:
    s.e.^2 = sum_p var_s / (seeds prompts^2). NaN for a single seed, 0 where there is but rounding.
    """
    figures: Figures = {}
    for name in cells[0]:
        x = torch.tensor([cell[name] for cell in cells], dtype=torch.float64)
        error = (
            float(x.var(0).sum().sqrt() / (len(x) ** 0.5 * x.shape[1])) if len(x) > 1 else math.nan
        )
        error = 0.0 if error < ROUNDING * float(x.abs().max()) else error
        figures |= {name: float(x.mean()), f"{name.removesuffix('_mean')}_std_error": error}
    return figures
