"""The cells of a comparison, a method at a budget with a seed each: measured, kept, averaged."""

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
from recipes.setup.parts import own
from steer.conditions import pick
from steer.counting import Evaluations
from steer.data.stream import keyed_generator
from steer.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from steer.resampling import effective_sample_size
from steer.samplers import Result

ROUNDING = 1e-12
DIRECTIONS = 32  # of the sliced distance to the tilted law
DRAWS = 4096  # exact ones that samples are compared with
BY_MEASURE = ("reward_mean", "heldout_reward_mean", "judge_accuracy", "diversity")
FURTHER = tuple(f"heldout_reward_{k}_mean" for k in range(2, 10))  # where there are several


@dataclass(frozen=True)
class CellMetrics:
    """cell_metrics(result) -> figures, each a list over the prompts.

    Args:
        measure: reward, held-out reward, judge's accuracy and diversity.
        exact: the tilted law, where it is known.
    """

    measure: Measure
    exact: ClosedForm | None

    def __call__(self, result: Result) -> Figures:
        rows = [self.of_prompt(result, p) for p in range(len(result.x))]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def of_prompt(self, result: Result, p: int) -> Figures:
        """By the weights of the samples; those of the measure unweighted as well."""
        measure = replace(self.measure, cond=pick(self.measure.cond, [p]))
        one = Result(result.x[p : p + 1], result.log_w[p : p + 1], None)
        weighted = measure(one)
        equal = bool((one.log_w == one.log_w[0, 0]).all())
        even = replace(one, log_w=torch.zeros_like(one.log_w))
        unweighted = weighted if equal else measure(even)
        names = (*BY_MEASURE, *(name for name in FURTHER if name in weighted))
        figures = {
            **{name: weighted[name] for name in names},
            **{f"{name}_unweighted": unweighted[name] for name in names},
            "ess": float(effective_sample_size(one.log_w)[0]),
        }
        if self.exact is not None:
            figures |= self.against_exact(self.exact, one, result.log_z, p)
        return figures

    def against_exact(
        self, exact: ClosedForm, one: Result, log_z: Tensor | None, p: int
    ) -> Figures:
        """The sliced Wasserstein distance W_1 to the tilted law, and the error of log Z."""
        error = torch.nan if log_z is None else float(log_z[p]) - exact.log_z
        distance = sliced_wasserstein(one.x[0], self.truth, self.directions, 1.0, one.log_w[0])
        return {"law_distance": float(distance), "log_z_error": error}

    @cached_property
    def truth(self) -> Tensor:
        """Exact draws of the tilted law, (DRAWS, d)."""
        assert self.exact is not None
        return self.exact.draws(DRAWS)

    @cached_property
    def directions(self) -> Tensor:
        """Unit vectors (DIRECTIONS, d) along which samples are compared with the draws."""
        found = random_directions(DIRECTIONS, self.truth.shape[1], keyed_generator("lines"))
        return found.to(self.truth.device)

    def of_exact_draws(self, particles: int, repeats: int = 24) -> Figures | None:
        """The figures of as many exact draws: the sampling error of a perfect method."""
        if self.exact is None:
            return None
        law = self.exact.law
        generator = keyed_generator("draws", device=law.means.device)
        x = law.sample(repeats * particles, generator).unflatten(0, (repeats, -1))
        cells = []
        for one in x:
            log_w = one.new_zeros(1, particles)
            log_z = one.new_full((1,), self.exact.log_z)
            cells.append(self(Result(one[None], log_w, log_z)))
        return over_seeds(cells)


# --- measured once, and kept --------------------------------------------------------------------
def cell(
    path: Path,
    method: Sizer,
    plan: Plan,
    budget: float,
    key: Sequence[str],
    cell_metrics: CellMetrics,
    keep_samples: bool,
) -> Figures:
    """The results of a method, measured or as they were kept; {"error": why} if it failed.

    Args:
        path: of the cell's JSON; samples are kept beside it.
        method: what to run.
        plan: its sizes.
        budget: evaluations per returned sample.
        key: of all its randomness.
        cell_metrics: what to measure.
        keep_samples: whether to keep the samples.
    """
    if path.exists():
        return read(path)
    fit = plan.fits[str(budget)]
    particles = method.benchmark.particles
    start = time.perf_counter()
    try:
        sampler = method.sampler(plan.setting, fit.size)
        groups = math.ceil(particles / fit.returned)
        result = method.benchmark.draw(sampler, fit.drawn, groups, *key, keep=particles)
        measured = {
            "evaluations": asdict(result.evaluations),
            "seconds": time.perf_counter() - start,
            "figures": cell_metrics(result),
        }
    except ValueError as error:
        return {"error": str(error)}  # not kept: a resumed run tries again
    if keep_samples:
        tensors = {"x": own(result.x), "log_w": own(result.log_w)}
        save_file(tensors, path.with_suffix(".safetensors"))
    write(path, measured)
    return measured


def read(path: Path) -> Any:
    """The JSON at a path."""
    return json.loads(path.read_text())


def write(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=1))
    os.replace(scratch, path)


# --- averaged -----------------------------------------------------------------------------------
def average_row(method: Sizer, plan: Plan, budget: float, cells: Sequence[Figures]) -> Figures:
    """A method at a budget, over all seeds; {"error": why} if there is nothing to average."""
    if (error := plan.errors.get(str(budget))) is not None:
        return {"error": error}
    if errors := [cell["error"] for cell in cells if "error" in cell]:
        return {"error": errors[0]}
    size = plan.fits[str(budget)].size
    spent = [cell["evaluations"] for cell in cells]
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
    """The mean of each figure over seeds and prompts, and its standard error over seeds.

    The prompts are taken as given.

    The cells of a prompt are independent over the seeds, and those of different prompts are
    independent: s.e.^2 = sum_p var_s / (seeds prompts^2). NaN for a single seed, 0 where the
    variation is rounding.
    """
    figures: Figures = {}
    for name in cells[0]:
        x = torch.tensor([cell[name] for cell in cells], dtype=torch.float64)
        error = math.nan
        if len(x) > 1:
            error = float(x.var(0).sum().sqrt() / (len(x) ** 0.5 * x.shape[1]))
        if error < ROUNDING * float(x.abs().max()):
            error = 0.0
        figures[name] = float(x.mean())
        figures[f"{name.removesuffix('_mean')}_std_error"] = error
    return figures
