"""Runs of tuning for experiments: their course, the choice of a setting, and their pictures.

A run tunes a shipped map, by default that of Fashion-MNIST, not told of classes. Its course is a
list of figures by the names that `steer tune` gives them, from before tuning to the end, so that
the report's warnings can be asked what they say to it.
"""

import base64
import copy
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import steer
from recipes.evaluation.metrics import Figures
from recipes.experiments.findings import within
from recipes.training.trainable import WithoutCondition
from rewards import from_signed
from steer import counting
from steer.conditions import for_particles
from steer.flow_map import Cond, FlowMap
from steer.metrics import FrechetDistance
from steer.pixels import to_bytes
from steer.samplers import Jump, Result, Sampler
from steer.tilt import Tilt
from steer.tuning import TuningObjective, add_lora

SHAPE = (1, 28, 28)
SAMPLES = 200  # of a look
BUDGET = 8000.0  # forward-equivalents of a run
LOOKS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)  # as shares of the budget
HELDOUT = "heldout_reward_mean"
WARM_UP = 5  # updates
LEAST_RATE = 0.02  # of what the rate falls to at the end
EXTENSIONS = 3  # settings added to a grid at most
SHOWN = 8  # samples kept as pictures

Course = list[Figures]
Measured = Callable[[Tensor], Figures]  # figures of samples (1, N, *shape)


@dataclass(frozen=True)
class World:
    """What is tuned, and what samples of it are looked at.

    Attributes:
        weights: of the shipped map.
        shape: of a sample.
        prompts: prompts(n, generator) -> the conditions of an update; without it the map is tuned
            as it is without its condition.
        looked_at: a condition for each prompt of the samples that are looked at.
        particles: so many for each of them.
    """

    weights: str = "fashion"
    shape: tuple[int, ...] = SHAPE
    prompts: Callable[[int, torch.Generator], Cond] | None = None
    looked_at: Cond = None
    particles: int = SAMPLES

    def drawn(self, flow_map: FlowMap, sampler: Sampler) -> Tensor:
        """Samples (prompts, particles, *shape) of a map from fixed noise."""
        return drawn(flow_map, sampler, self.looked_at, self.particles, self.shape)


FASHION = World()


@dataclass(frozen=True)
class Run:
    """What one run tunes by.

    Attributes:
        objective: of `steer.tuning`.
        tilt: the reward, of samples in [-1, 1], and its scale.
        lr: the highest rate of Adam.
        batch: samples of an update.
        rank: of low-rank adapters; all weights if None.
        world: what it tunes.
        per_prompt: samples of each prompt in an update; what the objective needs if None.
        budget: forward-equivalents to spend.
    """

    objective: TuningObjective
    tilt: Tilt
    lr: float
    batch: int = 32
    rank: int | None = None
    world: World = FASHION
    per_prompt: int | None = None
    budget: float = BUDGET


def course(
    run: Run,
    measured: Measured,
    seed: int,
    pictures: bool = False,
    until: float = 1.0,
    ends: Mapping[str, Sampler] | None = None,
) -> Course:
    """Tunes until a share of the budget is spent, with figures of samples at LOOKS.

    The samples are single jumps from the same noise at every look. The rate falls to zero over the
    second half of the budget, so that a run until its half is the first half of the whole one. With
    `pictures`, samples of the start, of the best look by the held-out reward and of the end are
    kept. With `ends`, the best look has the figures of its weights by these samplers as well.
    """
    sampler = Jump(1)
    world = run.world
    base: Any = steer.load(world.weights)
    flow_map = copy.deepcopy(base).requires_grad_(True)
    if world.prompts is None:
        flow_map.network = WithoutCondition(flow_map.network)
    if run.rank is not None:
        torch.manual_seed(seed)
        add_lora(flow_map, run.rank)
    run.objective.prepare(flow_map, base, run.tilt)
    learned = [p for m in (flow_map, run.objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=run.lr)
    generator = torch.Generator().manual_seed(seed)
    before = world.drawn(base, sampler)
    looks = [share * run.budget for share in LOOKS if share <= until]
    samples = [before]
    found: Course = [{"step": 0, "spent": 0.0, "seconds": 0.0, "distance": 0.0, **measured(before)}]
    seconds, step, spent = 0.0, 0, 0.0
    while looks:
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = run.lr * share_of_rate(step, spent / run.budget)
        with counting.count() as tally:
            update(run, flow_map, base, optimizer, generator, step)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step += 1
        seconds += time.perf_counter() - start
        spent += tally.forward_equivalents()
        if spent >= looks[0]:
            looks = [each for each in looks if each > spent]
            x = world.drawn(run.objective.product(flow_map, base), sampler)
            moved = float((x - before).flatten(2).norm(dim=2).mean())
            point = {"step": step, "spent": spent, "seconds": seconds, "distance": moved}
            found.append({**point, **measured(x)})
            samples.append(x)
            if ends and found[-1] is best(found):
                kept = copy.deepcopy((flow_map.state_dict(), run.objective.state_dict()))
    if ends and best(found) is not found[0]:
        flow_map.load_state_dict(kept[0])
        run.objective.load_state_dict(kept[1])
    if ends:
        model = base if best(found) is found[0] else run.objective.product(flow_map, base)
        best(found)["ends"] = {name: measured(world.drawn(model, s)) for name, s in ends.items()}
    if pictures:
        for k in {0, found.index(best(found)), len(found) - 1}:
            found[k]["pictures"] = packed(from_signed(first(samples[k])))
    return found


def update(
    run: Run,
    flow_map: Any,
    base: FlowMap,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
) -> None:
    """Computes the gradient of one update."""
    world = run.world
    x0 = torch.randn(run.batch, *world.shape, generator=generator)
    run.objective.begin(flow_map, step)
    each = run.objective.per_prompt if run.per_prompt is None else run.per_prompt
    prompts = None if world.prompts is None else world.prompts(run.batch // each, generator)
    cond = for_particles(prompts, each)
    loss = run.objective(flow_map, base, run.tilt, x0, cond, generator, step)
    optimizer.zero_grad()
    loss.total.backward()


def share_of_rate(step: int, spent: float) -> float:
    """The part of the highest rate: a warm-up, then a fall over the second half of the budget.

    Args:
        step: of the optimizer, from 0.
        spent: as a share of the budget.
    """
    return min(1.0, (step + 1) / WARM_UP, 2 * max(1.0 - spent, LEAST_RATE))


def drawn(
    flow_map: FlowMap,
    sampler: Sampler,
    cond: Cond = None,
    particles: int = SAMPLES,
    shape: tuple[int, ...] = SHAPE,
) -> Tensor:
    """Samples of a map from fixed noise, so many for each condition."""
    prompts = 1 if cond is None else len(cond)
    x0 = torch.randn(prompts, particles, *shape, generator=torch.Generator().manual_seed(99))
    return sampler(flow_map, x0, None, cond, torch.Generator().manual_seed(99)).x


# --- figures ------------------------------------------------------------------------------------
def result_of(x: Tensor) -> Result:
    """Samples (1, N, *shape) of equal weight."""
    return Result(x, torch.zeros(x.shape[:2], dtype=torch.float64), None)


def known(figures: Figures) -> Figures:
    """The figures that are numbers."""
    return {name: value for name, value in figures.items() if value == value}


class Distance:
    """distance(images (n, C, H, W) in [0, 1]) -> Frechet distance to those it was made of.

    Args:
        judge: a classifier, in whose features images are compared.
        images: (m, C, H, W) in [0, 1].
    """

    def __init__(self, judge: Any, images: Tensor):
        self.metric = FrechetDistance(judge.features, judge.width)
        self.metric.update(images, real=True)

    def __call__(self, images: Tensor) -> float:
        self.metric.model.zero_()
        self.metric.update(images.clamp(0, 1), real=False)
        self.metric._computed = None
        return float(self.metric.compute())


# --- choices ------------------------------------------------------------------------------------
def bracketed(
    grid: Sequence[float], score: Callable[[float], float], limits: tuple[float, float]
) -> tuple[float, bool]:
    """The setting of the highest score, and whether its neighbours on both sides were tried.

    Args:
        grid: settings to begin with, in geometric progression; it is extended while the best is at
            an end, EXTENSIONS times at most and within limits.
        score: of a setting; higher is better.
        limits: the least and the greatest setting.
    """
    tried = {setting: score(setting) for setting in grid}
    factor = grid[1] / grid[0]
    for _ in range(EXTENSIONS + 1):
        chosen = max(tried, key=lambda setting: tried[setting])
        ends = min(tried), max(tried)
        if chosen not in ends:
            return chosen, True
        beyond = rounded(chosen / factor if chosen == ends[0] else chosen * factor)
        if not limits[0] <= beyond <= limits[1] or len(tried) == len(grid) + EXTENSIONS:
            break
        tried[beyond] = score(beyond)
    return chosen, False


def rounded(setting: float) -> float:
    """The setting to three digits, as keys have it."""
    return float(f"{setting:.3g}")


def best(found: Course) -> Figures:
    """The look of the highest held-out reward."""
    return max(found, key=lambda figures: figures[HELDOUT])


def best_so_far(found: Course) -> float:
    """The highest held-out reward up to each look, averaged over the looks."""
    tops = [max(f[HELDOUT] for f in found[: k + 1]) for k in range(1, len(found))]
    return sum(tops) / len(tops)


def held_late(found: Course) -> float:
    """The held-out reward averaged over the looks of the second half of a whole run."""
    half = 0.45 * found[-1]["spent"]  # runs end a little above their budget
    late = [f[HELDOUT] for f in found if f["spent"] >= half]
    return sum(late) / len(late)


def until_stopped(found: Course, patience: int = 2) -> Course:
    """The course up to the look at which a stop by the held-out reward ends it."""
    for k in range(patience, len(found)):
        top = max(range(k + 1), key=lambda i: found[i][HELDOUT])
        if k - top >= patience:
            return found[: k + 1]
    return found


# --- tables and pictures ------------------------------------------------------------------------
def mean_and_error(values: Iterable[float], digits: int = 3) -> str:
    """mean ± standard error."""
    tensor = torch.tensor(list(values), dtype=torch.float64)
    return within(float(tensor.mean()), float(tensor.std() / len(tensor) ** 0.5), digits)


def over_seeds(courses: Sequence[Course], name: str) -> tuple[Tensor, Tensor]:
    """Mean spending and mean figure at each look that all runs have, (looks,) each."""
    n = min(len(found) for found in courses)
    points = torch.tensor(
        [[[f["spent"], f[name]] for f in found[:n]] for found in courses], dtype=torch.float64
    )
    spent, values = points.mean(0).unbind(1)
    return spent, values


def first(x: Tensor) -> Tensor:
    """SHOWN samples of (P, N, *shape): the first ones of the first prompts."""
    prompts = min(len(x), SHOWN)
    return x[:prompts, : SHOWN // prompts].flatten(0, 1)


def packed(images: Tensor) -> str:
    """Images (n, C, H, W) in [0, 1] as text, 8 bits a pixel."""
    pixels = to_bytes(images).cpu().numpy()
    return base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode()


def unpacked(text: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """The images of such a text."""
    pixels = bytearray(zlib.decompress(base64.b64decode(text)))
    return torch.frombuffer(pixels, dtype=torch.uint8).view(-1, *shape) / 255


def complete(cells: Mapping[str, Any], names: Iterable[str], courses: Callable) -> list[str]:
    """The names whose runs, courses(cells, name), have all been kept."""
    found = []
    for name in names:
        try:
            courses(cells, name)
        except KeyError:
            continue
        found.append(name)
    return found
